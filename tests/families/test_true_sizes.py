"""Networks of the sizes that people run: what guards against a broken config lets them through.

No weights are made: a file says their shapes in its header, and is a hole behind it.
"""

import json
import math
import os

import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from tiny_stable_diffusion import tiny_stable_diffusion
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
)

import erasediff
from erasediff.families import family_of
from erasediff.families.original_format import save_single_file
from erasediff.families.weights import load_network

KL = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}
DC = {
    "encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "decoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "latent_channels": 32,
}
XL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
CIFAR = {
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
CLIP = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
BIG_CLIP = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
T5_XXL = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_layers": 24, "num_heads": 64}
NETWORKS = {
    "Stable Diffusion 1.5": lambda: UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8),
    "Stable Diffusion XL": lambda: UNet2DConditionModel(**XL),
    "Stable Diffusion 3": lambda: SD3Transformer2DModel(
        num_layers=24, num_attention_heads=24, joint_attention_dim=4096, pooled_projection_dim=2048
    ),
    "FLUX.1": lambda: FluxTransformer2DModel(guidance_embeds=True),
    "SANA": lambda: SanaTransformer2DModel(),
    "PixArt": lambda: PixArtTransformer2DModel(cross_attention_dim=1152, caption_channels=4096),
    "DDPM of CIFAR-10": lambda: UNet2DModel(sample_size=32, **CIFAR),
    "autoencoder of Stable Diffusion": lambda: AutoencoderKL(**KL, sample_size=512),
    "autoencoder of FLUX.1": lambda: AutoencoderKL(**KL, latent_channels=16, sample_size=1024),
    "autoencoder of SANA": lambda: AutoencoderDC(**DC),
    "CLIP": lambda: CLIPTextModel(CLIPTextConfig(**CLIP)),
    "CLIP of SDXL": lambda: CLIPTextModelWithProjection(CLIPTextConfig(**BIG_CLIP, projection_dim=1280)),
    "T5": lambda: T5EncoderModel(T5Config(**T5_XXL)),
    "Gemma 2": lambda: Gemma2Model(Gemma2Config()),
}


class Taken(Exception):  # noqa: N818 - it is none
    """Everything was let through, and the weights would be read."""


@pytest.mark.unit
@pytest.mark.parametrize("name", NETWORKS)
def test_a_config_of_a_true_size_is_taken(name, tmp_path, monkeypatch):
    with torch.device("meta"):
        network = NETWORKS[name]()
    shapes = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    reads_text = isinstance(network, PreTrainedModel)
    hollow(tmp_path / f"{'model' if reads_text else 'diffusion_pytorch_model'}.safetensors", shapes)
    (network.config.save_pretrained if reads_text else network.save_config)(tmp_path)

    def read(*_, **__):
        raise Taken

    monkeypatch.setattr(type(network), "from_pretrained", read)
    with pytest.raises(Taken):
        load_network(type(network), tmp_path)


def hollow(path, shapes):
    """A safetensors file of half precision that holds nothing but its header."""
    entries, end = {}, 0
    for key, shape in shapes.items():
        size = 2 * math.prod(shape)
        entries[key] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + end)


def true_stable_diffusion(dtype):
    """Its true networks, of random weights; tokenizer and scheduler are those of the small one."""
    tiny = tiny_stable_diffusion()
    torch.set_default_dtype(dtype)
    try:
        parts = {
            "unet": NETWORKS["Stable Diffusion 1.5"](),
            "vae": NETWORKS["autoencoder of Stable Diffusion"](),
            "text_encoder": NETWORKS["CLIP"](),
        }
    finally:
        torch.set_default_dtype(torch.float32)
    return type(tiny)(**{**tiny.components, **parts}, requires_safety_checker=False)


@pytest.mark.unit
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_stable_diffusion_of_its_true_size_is_opened_as_a_folder_and_as_one_file(tmp_path):
    """In half precision: 2 GB in each form."""
    pipeline = true_stable_diffusion(torch.float16)
    pipeline.save_pretrained(tmp_path / "folder")
    save_single_file(pipeline, tmp_path / "model.safetensors", {})
    wanted = {name: getattr(pipeline, name).state_dict() for name in ("unet", "vae", "text_encoder")}
    for opened in (
        erasediff.load(tmp_path / "folder"),
        erasediff.load(tmp_path / "model.safetensors", config=tmp_path / "folder"),
    ):
        assert family_of(opened).image_shape == (3, 512, 512)
        for name, weights in wanted.items():
            found = getattr(opened, name).state_dict()
            assert all(torch.equal(found[key], value) for key, value in weights.items()), name


@pytest.mark.unit
@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_lora_is_trained_on_stable_diffusion_of_its_true_size(tmp_path):
    """With the settings of large models, but for two updates on small pictures, in little memory."""
    pipeline = true_stable_diffusion(torch.float32)
    few = {"size": (64, 64), "outer_steps": 2, "generate": 2, "inference_steps": 2, "retain_batch_size": 2}
    erased = erasediff.erase(
        pipeline, "star", anchor="circle", preserve=["circle"], adapter="lora", forget_batch_size=2, **few
    )
    assert erased.updates == 2 and all(math.isfinite(row["forget_loss"]) for row in erased.history)
    erased.save(tmp_path / "erased")
    size = (tmp_path / "erased" / "pytorch_lora_weights.safetensors").stat().st_size
    assert size < 0.03 * 4 * sum(weight.numel() for weight in pipeline.unet.parameters())
    pipeline.load_lora_weights(tmp_path / "erased", weight_name="pytorch_lora_weights.safetensors")
    assert pipeline.get_active_adapters()
