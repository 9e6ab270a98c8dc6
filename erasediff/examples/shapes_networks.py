"""The networks of the embedded text-to-image model: the true classes of Stable Diffusion, small."""

from __future__ import annotations

import json

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from erasediff.examples.captions import CORPUS
from erasediff.examples.world import SIDE

#: Tokens of a prompt, start and end included.
PROMPT_TOKENS = 32


def build_autoencoder(seed: int) -> AutoencoderKL:
    """24×24 pixels to 12×12 latents of four channels, with new weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
            up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
            block_out_channels=(16, 32),
            latent_channels=4,
            norm_num_groups=8,
            sample_size=SIDE,
            mid_block_add_attention=False,
        )


def build_shapes_pipeline(vae: AutoencoderKL, seed: int) -> StableDiffusionPipeline:
    """The true classes of Stable Diffusion around an autoencoder, small, with new weights."""
    tokenizer = CLIPTokenizer(model_max_length=PROMPT_TOKENS).train_new_from_iterator(CORPUS, vocab_size=900)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=96,
                intermediate_size=192,
                num_hidden_layers=3,
                num_attention_heads=4,
                max_position_embeddings=PROMPT_TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=SIDE // 2,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(48, 64, 80),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=96,
            attention_head_dim=4,
            norm_num_groups=8,
        )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def give_every_letter_a_token(pipeline: StableDiffusionPipeline, seed: int) -> None:
    """Give each byte a token inside a word, and one at a word's end, after the tokens that there are.

    A small corpus has not every letter at the end of a word. The tokenizer would read such a letter as the unknown
    token, which is the end of the prompt: "hub" and "hui" would be the same word. What the encoder says of other
    prompts stays, bit by bit: a new token has a new row of the embedding, as small as those that were never trained.
    """
    backend = json.loads(pipeline.tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary, suffix = backend["vocab"], backend["end_of_word_suffix"]
    letters = [letter + end for end in ("", suffix) for letter in sorted(ByteLevel.alphabet())]
    for token in letters:
        vocabulary.setdefault(token, len(vocabulary))
    merges = [tuple(pair) for pair in backend["merges"]]
    pipeline.tokenizer = CLIPTokenizer(vocabulary, merges, model_max_length=PROMPT_TOKENS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline.text_encoder.resize_token_embeddings(len(vocabulary), mean_resizing=False)


def embeddings(pipeline: StableDiffusionPipeline, words: list[str]) -> Tensor:
    """What ``encode_prompt`` gives, ``(B, 32, 96)``, with a gradient."""
    tokens = pipeline.tokenizer(
        words, padding="max_length", max_length=PROMPT_TOKENS, truncation=True, return_tensors="pt"
    )
    return pipeline.text_encoder(tokens.input_ids).last_hidden_state
