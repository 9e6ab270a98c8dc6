"""The original format of Stable Diffusion 1.x, written from a tiny pipeline: what files for ComfyUI and A1111 hold."""

from safetensors.torch import save_file

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def replaced(name, table):
    for ours, theirs in table.items():
        name = name.replace(f"{ours}.", f"{theirs}.") if ours in name else name
    return name


def unet_tensors(unet):
    n, layers = len(unet.config.block_out_channels), unet.config.layers_per_block
    blocks = {"mid_block.attentions.0": "middle_block.1"} | {
        f"mid_block.resnets.{j}": f"middle_block.{2 * j}" for j in (0, 1)
    }
    for i in range(n):
        for j in range(layers):
            for kind, place in (("resnets", 0), ("attentions", 1)):
                blocks[f"down_blocks.{i}.{kind}.{j}"] = f"input_blocks.{(layers + 1) * i + j + 1}.{place}"
        blocks[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{(layers + 1) * (i + 1)}.0.op"
        for j in range(layers + 1):
            for kind, place in (("resnets", 0), ("attentions", 1)):
                blocks[f"up_blocks.{i}.{kind}.{j}"] = f"output_blocks.{(layers + 1) * i + j}.{place}"
        attends = "CrossAttn" in unet.config.up_block_types[i]
        blocks[f"up_blocks.{i}.upsamplers.0"] = f"output_blocks.{(layers + 1) * i + layers}.{2 if attends else 1}"
    found = {}
    for name, tensor in unet.state_dict().items():
        new = replaced(name, RESNET) if "resnets" in name else name if "blocks" in name else replaced(name, OUTSIDE)
        found[f"model.diffusion_model.{replaced(new, blocks)}"] = tensor
    return found


def vae_tensors(vae):
    n = len(vae.config.block_out_channels)
    blocks = {"mid_block.attentions.0": "mid.attn_1", "conv_norm_out": "norm_out"}
    blocks |= {f"mid_block.resnets.{j}": f"mid.block_{j + 1}" for j in (0, 1)}
    for i in range(n):
        for j in range(vae.config.layers_per_block + 1):
            blocks[f"down_blocks.{i}.resnets.{j}"] = f"down.{i}.block.{j}"
            blocks[f"up_blocks.{i}.resnets.{j}"] = f"up.{n - 1 - i}.block.{j}"
        blocks[f"down_blocks.{i}.downsamplers.0"] = f"down.{i}.downsample"
        blocks[f"up_blocks.{i}.upsamplers.0"] = f"up.{n - 1 - i}.upsample"
    found = {}
    for name, tensor in vae.state_dict().items():
        new = replaced(replaced(name, blocks), {"conv_shortcut": "nin_shortcut"})
        if "attentions" in name:
            new = replaced(new, VAE_ATTENTION)
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        found[f"first_stage_model.{new}"] = tensor
    return found


def save_original(pipeline, file):
    """Write a tiny Stable Diffusion 1.x as one file."""
    text = pipeline.text_encoder.state_dict().items()
    text = {
        f"cond_stage_model.transformer.{name if 'text_model' in name else f'text_model.{name}'}": t for name, t in text
    }
    tensors = {**unet_tensors(pipeline.unet), **vae_tensors(pipeline.vae), **text}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
