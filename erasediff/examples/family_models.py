"""Small models of other families, of their true classes; what they can share with the embedded model they take from it.

Each draws 4 objects in 2 styles and 2 colours of the world: as much as a denoiser learns in a few minutes of one core.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from erasediff.examples.captions import CORPUS
from erasediff.training.denoising import Recipe

#: What of the world they draw.
OBJECTS, STYLES, COLOURS = ("star", "circle", "square", "cross"), ("flat", "outlined"), ("red", "blue")
#: Side and channels of the embedded model's latents, and width of what its text encoder gives.
LATENT_SIDE, LATENT_CHANNELS, TEXT_WIDTH = 12, 4, 96
#: Width of the text encoders that are trained here.
OWN_TEXT_WIDTH = 64
#: Noise as the embedded model is trained with, which predicts the velocity of diffusion.
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
VELOCITY = {**SCHEDULE, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}


@dataclass(frozen=True)
class FamilyModel:
    """How the model of a family is made.

    Attributes:
        build: makes the pipeline around parts of the embedded one; its denoiser has new weights.
        recipe: how the denoiser is trained.
        text_steps: updates of its text encoders before that; 0: they are those of the embedded model.
        autoencoder_steps: likewise of its autoencoder.
        of_classes: whether it is asked for objects by their names alone.
        pictures: how many its denoiser is trained on, each with one caption.
        guidance_scale: with which it is measured.
    """

    build: Callable[[StableDiffusionPipeline], DiffusionPipeline]
    recipe: Recipe
    text_steps: int = 0
    autoencoder_steps: int = 0
    of_classes: bool = False
    pictures: int = 1200
    guidance_scale: float = 3.0


def build(name: str, embedded: StableDiffusionPipeline, seed: int) -> DiffusionPipeline:
    """The pipeline of a family, a key of :data:`MODELS`, untrained; its weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = MODELS[name].build(embedded)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.eval()
    return pipeline


def _stable_diffusion_xl(embedded: StableDiffusionPipeline) -> DiffusionPipeline:
    """Its UNet starts from the embedded one, but for attention to the prompt, pooled text and sizes."""
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "cross_attention_dim": 2 * TEXT_WIDTH}
    config = {**embedded.unet.config, **added, "projection_class_embeddings_input_dim": 6 * 8 + TEXT_WIDTH}
    unet = UNet2DConditionModel.from_config(config)
    own = unet.state_dict()
    fitting = {n: w for n, w in embedded.unet.state_dict().items() if n in own and own[n].shape == w.shape}
    unet.load_state_dict({**own, **fitting})
    return StableDiffusionXLPipeline(
        vae=_autoencoder(embedded),
        text_encoder=embedded.text_encoder,
        text_encoder_2=_projecting(embedded),
        tokenizer=embedded.tokenizer,
        tokenizer_2=embedded.tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**VELOCITY),
        add_watermarker=False,
    )


def _stable_diffusion_3(embedded: StableDiffusionPipeline) -> DiffusionPipeline:
    transformer = SD3Transformer2DModel(
        sample_size=LATENT_SIDE,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=2 * TEXT_WIDTH,
        caption_projection_dim=64,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=LATENT_SIDE // 2,
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=2.0),
        vae=_autoencoder(embedded, shift_factor=0.0),
        text_encoder=_projecting(embedded),
        tokenizer=embedded.tokenizer,
        text_encoder_2=_projecting(embedded),
        tokenizer_2=embedded.tokenizer,
        text_encoder_3=None,  # it is often left out: 4.7 of its 8 thousand million weights
        tokenizer_3=None,
    )


def _flux(embedded: StableDiffusionPipeline) -> DiffusionPipeline:
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=OWN_TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=True,
    )
    tokenizer = own_tokenizer()
    return FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=_autoencoder(embedded, shift_factor=0.0),
        text_encoder=embedded.text_encoder,
        tokenizer=embedded.tokenizer,
        text_encoder_2=_t5(tokenizer),
        tokenizer_2=tokenizer,
    )


def _sana(embedded: StableDiffusionPipeline) -> DiffusionPipeline:
    side, channels = 8, 16  # 32 pixels a side, the smallest that its pipeline draws
    transformer = SanaTransformer2DModel(
        in_channels=channels,
        out_channels=channels,
        num_layers=4,
        num_attention_heads=4,
        attention_head_dim=24,
        num_cross_attention_heads=4,
        cross_attention_head_dim=24,
        cross_attention_dim=96,
        caption_channels=OWN_TEXT_WIDTH,
        sample_size=side,
        patch_size=1,
    )
    width = (16, 32, 64)
    autoencoder = AutoencoderDC(
        in_channels=3,
        latent_channels=channels,
        attention_head_dim=8,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=width,
        decoder_block_out_channels=width,
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
    )
    instruction = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    # SANA counts the tokens of the instruction, and takes what comes behind: one more there would cut a word off.
    tokenizer = own_tokenizer(instruction, template="</s> $A")
    text_encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=OWN_TEXT_WIDTH,
            intermediate_size=2 * OWN_TEXT_WIDTH,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    scheduler = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    return SanaPipeline(tokenizer, text_encoder, autoencoder, transformer, scheduler)


def _pixart(embedded: StableDiffusionPipeline) -> DiffusionPipeline:
    transformer = PixArtTransformer2DModel(
        sample_size=LATENT_SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=2 * LATENT_CHANNELS,
        num_layers=4,
        num_attention_heads=4,
        attention_head_dim=24,
        cross_attention_dim=96,
        caption_channels=OWN_TEXT_WIDTH,
        patch_size=2,
        use_additional_conditions=False,
    )
    tokenizer = own_tokenizer()
    scheduler = DPMSolverMultistepScheduler(**VELOCITY)
    return PixArtAlphaPipeline(tokenizer, _t5(tokenizer), _autoencoder(embedded), transformer, scheduler)


def _dit(embedded: StableDiffusionPipeline) -> DiffusionPipeline:
    """Of its 1,000 classes few have a name: the pipeline guides away from the 1,001st, however many there are."""
    transformer = DiTTransformer2DModel(
        sample_size=LATENT_SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=2 * LATENT_CHANNELS,
        num_layers=4,
        num_attention_heads=4,
        attention_head_dim=24,
    )
    scheduler = DDIMScheduler(**VELOCITY, clip_sample=False)
    pipeline = DiTPipeline(transformer, _autoencoder(embedded), scheduler, id2label=dict(enumerate(OBJECTS)))
    pipeline.register_to_config(id2label={str(i): name for i, name in enumerate(OBJECTS)})  # it does not note it itself
    return pipeline


def _autoencoder(embedded: StableDiffusionPipeline, **more: float) -> AutoencoderKL:
    """That of the embedded model; ``more`` stands in its config."""
    vae = AutoencoderKL.from_config({**embedded.vae.config, **more})
    vae.load_state_dict(embedded.vae.state_dict())
    return vae


def _projecting(embedded: StableDiffusionPipeline) -> CLIPTextModelWithProjection:
    """The embedded text encoder, whose pooled text is projected onto itself."""
    config = {**embedded.text_encoder.config.to_dict(), "projection_dim": TEXT_WIDTH, "dtype": "float32"}
    encoder = CLIPTextModelWithProjection(CLIPTextConfig(**config)).float()
    weights = {name.removeprefix("text_model."): w for name, w in embedded.text_encoder.state_dict().items()}
    encoder.text_model.load_state_dict(weights)
    nn.init.eye_(encoder.text_projection.weight)
    return encoder


def own_tokenizer(more: list[str] | None = None, *, template: str = "$A </s>") -> Any:
    """A tokenizer as T5's or Gemma's: padded at the end, unknown words are spelled.

    Args:
        more: texts whose words it should know beside the captions.
        template: where the token of its own stands: behind a text, as T5's, or before it, as Gemma's.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1600, special_tokens=special, initial_alphabet=letters, show_progress=False
    )
    backend.train_from_iterator([*CORPUS, *(more or ()) * 3], trainer)
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<pad>", model_max_length=512
    )


def _t5(tokenizer: Any) -> T5EncoderModel:
    width = OWN_TEXT_WIDTH
    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=16, d_ff=2 * width, num_layers=1, num_heads=4)
    )


def _recipe(steps: int, learning_rate: float = 2e-3) -> Recipe:
    return Recipe(steps, batch_size=8, learning_rate=learning_rate, warmup_steps=30, ema_decay=0.99)


#: The models by name. After these updates that of SDXL draws its objects rightly in 157 of 160 pictures, that of SD 3
#: in 31 of 32, that of PixArt in 30 of 32, that of SANA in 32 of 32, that of FLUX in 29 of 32. That of DiT draws all
#: rightly after 2,400, of which 1,400 went on from a shorter schedule.
MODELS = {
    "stable_diffusion_xl": FamilyModel(_stable_diffusion_xl, _recipe(300, learning_rate=1e-3)),
    "stable_diffusion_3": FamilyModel(_stable_diffusion_3, _recipe(3000)),
    "dit": FamilyModel(_dit, _recipe(3000), of_classes=True),
    "pixart": FamilyModel(_pixart, _recipe(6000), text_steps=150),
    "sana": FamilyModel(_sana, _recipe(3000), text_steps=300, autoencoder_steps=400, pictures=400),
    "flux": FamilyModel(_flux, _recipe(6000), text_steps=300),
}
