"""DINOv2 in the layout of facebook/dinov2-base, made from torch hub's."""

from torch import Tensor


def hugging_face(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """One tensor of torch hub's layout in the layout of facebook/dinov2-base."""
    outer = {
        "cls_token": "embeddings.cls_token",
        "mask_token": "embeddings.mask_token",
        "pos_embed": "embeddings.position_embeddings",
    }
    for part in ("weight", "bias"):
        outer[f"patch_embed.proj.{part}"] = f"embeddings.patch_embeddings.projection.{part}"
        outer[f"norm.{part}"] = f"layernorm.{part}"
    if name in outer:
        return {outer[name]: tensor}
    _, block, rest = name.split(".", 2)
    prefix = f"encoder.layer.{block}."
    if rest.startswith("attn.qkv."):
        kind = rest.rsplit(".", 1)[1]
        parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
        return {f"{prefix}attention.attention.{part}.{kind}": value for part, value in parts}
    inner = {"attn.proj": "attention.output.dense"}
    inner |= {"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
    for ours, theirs in inner.items():
        rest = rest.replace(ours, theirs)
    return {prefix + rest: tensor}
