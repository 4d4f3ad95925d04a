import shutil
from pathlib import Path

import pytest
import torch
from golden_files import worst
from refusals import unfit
from safetensors.torch import save_file
from torch import Tensor

from upfusion_core.models.checkpoint import load_networks, load_text_encoder, open_checkpoint
from upfusion_core.models.stable_diffusion import encode_tokens, tokenize
from upfusion_core.support.errors import CheckpointError
from upfusion_core.support.weights import read_weights


@pytest.fixture
def folder(small_weights: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(small_weights, tmp_path / "weights"))


def change(path: Path, **changes: Tensor | None) -> None:
    """Replaces, adds or (None) removes tensors of a pickle; dots in names are written as double underscores."""
    weights = dict(read_weights(path))
    for name, value in changes.items():
        name = name.replace("__", ".")
        weights.pop(name, None)
        if value is not None:
            weights[name] = value
    weights = {name: value.clone() for name, value in weights.items()}
    torch.save({"model_state_dict": weights}, path)


def test_networks_hold_the_file_s_numbers(small_weights: Path) -> None:
    """Those in the file's precision are mapped, not copied."""
    checkpoint = open_checkpoint(small_weights)
    networks = load_networks(checkpoint, "cpu", torch.float32)
    for ours, name in (
        (networks.upsrt.linear_scene.weight, "upsrt.linear_scene.weight"),
        (networks.dino.blocks[1].attn.qkv.weight, "dino.blocks.1.attn.qkv.weight"),
        (networks.unet.conv_in.weight, "model.diffusion_model.input_blocks.0.0.weight"),
        (networks.vae.quant_conv.bias, "first_stage_model.quant_conv.bias"),
        (networks.controlnet.input_hint_block[0].weight, "control_model.input_hint_block.0.weight"),
    ):
        assert torch.equal(ours, checkpoint.weights[name])
        assert ours.data_ptr() == checkpoint.weights[name].data_ptr()
    assert not any(parameter.requires_grad for parameter in networks.unet.parameters())
    half = load_networks(checkpoint, "cpu", torch.float16)
    assert {parameter.dtype for parameter in half.unet.parameters()} == {torch.float16}


def hugging_face(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """One tensor of torch hub's DINOv2 in the layout of facebook/dinov2-base."""
    outer = {"cls_token": "cls_token", "mask_token": "mask_token", "pos_embed": "position_embeddings"}
    if name in outer:
        return {f"embeddings.{outer[name]}": tensor}
    name, kind = name.rsplit(".", 1)
    if name == "patch_embed.proj":
        return {f"embeddings.patch_embeddings.projection.{kind}": tensor}
    if name == "norm":
        return {f"layernorm.{kind}": tensor}
    _, block, part = name.split(".", 2)
    if part == "attn.qkv":
        parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
        return {f"encoder.layer.{block}.attention.attention.{part}.{kind}": value for part, value in parts}
    other = {"attn.proj": "attention.output.dense", "ls1": "layer_scale1", "ls2": "layer_scale2"}.get(part, part)
    return {f"encoder.layer.{block}.{other}.{kind.replace('gamma', 'lambda1')}": tensor}


def test_hugging_face_dino_gives_the_same_network(small_weights: Path, folder: Path) -> None:
    hub = read_weights(folder / "dinov2_vitb14_pretrain.pth")
    renamed: dict[str, Tensor] = {}
    for name, tensor in hub.items():
        renamed |= hugging_face(name, tensor.clone())
    (folder / "dinov2_vitb14_pretrain.pth").unlink()
    save_file({name: value.contiguous() for name, value in renamed.items()}, folder / "model.safetensors")
    ours, theirs = (open_checkpoint(path).weights for path in (folder, small_weights))
    assert ours.keys() == theirs.keys()
    assert max(worst(ours[name], theirs[name]) for name in ours if name.startswith("dino.")) == 0


def test_a_dino_file_of_another_name_is_found(folder: Path) -> None:
    """What comes after the keys in use may be absent from it."""
    weights = {name: value.clone() for name, value in read_weights(folder / "dinov2_vitb14_pretrain.pth").items()}
    unused = ("blocks.1.mlp", "norm", "mask_token")
    kept = {name: value for name, value in weights.items() if not name.startswith(unused)}
    (folder / "dinov2_vitb14_pretrain.pth").unlink()
    torch.save(kept, folder / "dino.pth")
    checkpoint = open_checkpoint(folder)
    assert "dino.cls_token" in checkpoint.weights
    shutil.copy(folder / "dino.pth", folder / "other.pth")
    unfit("2 candidates", open_checkpoint, folder)


def test_upsrt_as_lightning_saves_it(folder: Path) -> None:
    before, upsrt = open_checkpoint(folder), read_weights(folder / "upsrt.pt")
    torch.save({"state_dict": {f"model.{name}": value for name, value in upsrt.items()}}, folder / "upsrt.ckpt")
    (folder / "upsrt.pt").unlink()
    with pytest.warns(UserWarning, match=r"upsrt.ckpt: the wrapper model\. was taken off names"):
        assert open_checkpoint(folder).model_id == before.model_id


def test_all_faults_are_listed_in_one_error(folder: Path) -> None:
    change(folder / "upsrt.pt", linear_scene__bias=None, surplus=torch.ones(1), linear_scene__weight=torch.ones(2, 3))
    change(folder / "upfusion2d.pt", control_model__zero_convs__0__0__bias=None)
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(folder)
    message = str(error.value)
    assert "2 missing: upsrt.linear_scene.bias, control_model.zero_convs.0.0.bias" in message
    assert "1 unexpected: upsrt.surplus" in message
    assert "1 of another shape: upsrt.linear_scene.weight (2, 3) instead of (32, 80)" in message


def test_configurations_as_texts(folder: Path) -> None:
    config, plain = folder / "config.json", open_checkpoint(folder)
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    marked = open_checkpoint(folder)
    assert (marked.config, marked.model_id) == (plain.config, plain.model_id)
    config.write_text("{")
    unfit("JSON", open_checkpoint, folder)
    config.write_bytes(b"\xff\xfe\x00")
    unfit("UTF-8", open_checkpoint, folder)
    config.unlink()  # then the released sizes hold
    unfit("of another shape", open_checkpoint, folder)


def test_paths_that_are_no_checkpoint(folder: Path, tmp_path: Path) -> None:
    unfit("does not exist", open_checkpoint, tmp_path / "none")
    unfit("give the folder", open_checkpoint, folder / "upsrt.pt")
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    unfit("no upfusion_config", open_checkpoint, tmp_path / "other.safetensors")
    for name in ("dinov2_vitb14_pretrain.pth", "upfusion2d.pt", "upsrt.pt"):
        (folder / name).unlink()
        unfit("DINOv2 file", open_checkpoint, folder)


def test_the_text_encoder_and_half_of_one(small_weights: Path, folder: Path) -> None:
    checkpoint = open_checkpoint(small_weights)
    encoder = load_text_encoder(checkpoint)
    tokens = tokenize("")
    states = encode_tokens(encoder, tokens)
    assert states.shape == (1, 77, 32)
    # a causal encoder: the first state knows only the first token, so by hand it follows from one token alone
    alone = encoder(tokens[:, :1]).last_hidden_state
    assert worst(states[:, :1], alone.float()) < 1e-5
    told = checkpoint.layout, checkpoint.text(), checkpoint.parts()["ControlNet"].tensors
    assert told == ("folder", "a text encoder", 112)
    assert checkpoint.parts()["UNet"].bytes == 4 * checkpoint.parts()["UNet"].parameters
    path, clip = folder / "upfusion2d.pt", "cond_stage_model__transformer__text_model__final_layer_norm__weight"
    change(path, **{clip: None})
    unfit(r"1 missing: \S*final_layer_norm.weight", open_checkpoint, folder)
    kept = {name: value.clone() for name, value in read_weights(path).items() if not name.startswith("cond_stage")}
    torch.save({"model_state_dict": kept}, path)
    checkpoint = open_checkpoint(folder)
    assert not checkpoint.has_text_encoder
    assert checkpoint.text().startswith("none")
    unfit("no text encoder", load_text_encoder, checkpoint)
    change(path, text_embeddings__default=torch.zeros(77, 32))
    unfit(r"1 missing: \S*text_embeddings.empty", open_checkpoint, folder)
