import re
import shutil
from pathlib import Path

import pytest
import torch
from command_runs import done
from golden_files import worst
from refusals import unfit
from safetensors.torch import save_file
from torch import Tensor

from upfusion_core import UpFusion, convert
from upfusion_core.models import checkpoint as layout
from upfusion_core.models.checkpoint import load_text_encoder, open_checkpoint, recommended_guidance
from upfusion_core.models.stable_diffusion import encode_tokens, tokenize
from upfusion_core.support import files
from upfusion_core.support.weights import read_weights


@pytest.fixture
def folder(small_weights: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(small_weights, tmp_path / "weights"))


def change(path: Path, changes: dict[str, Tensor], *dropped: str) -> None:
    """Replaces or adds tensors of a pickle, and drops those whose names begin so."""
    weights = {name: value.clone() for name, value in read_weights(path).items() if not name.startswith(dropped)}
    torch.save({"model_state_dict": weights | changes}, path)


def test_networks_hold_the_file_s_numbers(small_weights: Path) -> None:
    """Those in the file's precision are mapped, not copied."""
    checkpoint = open_checkpoint(small_weights)
    networks = layout.load_networks(checkpoint, "cpu", torch.float32)
    for ours, name in (
        (networks.upsrt.linear_scene.weight, "upsrt.linear_scene.weight"),
        (networks.unet.conv_in.weight, "model.diffusion_model.input_blocks.0.0.weight"),
        (networks.vae.quant_conv.bias, "first_stage_model.quant_conv.bias"),
    ):
        assert torch.equal(ours, checkpoint.weights[name])
        assert ours.data_ptr() == checkpoint.weights[name].data_ptr()
    assert not any(parameter.requires_grad for parameter in networks.unet.parameters())
    half = layout.load_networks(checkpoint, "cpu", torch.float16)
    assert {parameter.dtype for parameter in half.unet.parameters()} == {torch.float16}


HUGGING_FACE = {  # parts of torch hub's names of DINOv2 -> as facebook/dinov2-base has them
    r"^(cls|mask)_token": r"embeddings.\1_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "^norm": "layernorm",
    "blocks": "encoder.layer",
    "attn.proj": "attention.output.dense",
    r"ls(\d).gamma": r"layer_scale\1.lambda1",
}


def test_hugging_face_dino_gives_the_same_network(small_weights: Path, folder: Path) -> None:
    renamed: dict[str, Tensor] = {}
    for name, tensor in read_weights(folder / "dinov2_vitb14_pretrain.pth").items():
        for ours, theirs in HUGGING_FACE.items():
            name = re.sub(ours, theirs, name)
        parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True) if "qkv" in name else [("", tensor)]
        renamed |= {name.replace("attn.qkv", f"attention.attention.{part}"): value.clone() for part, value in parts}
    (folder / "dinov2_vitb14_pretrain.pth").unlink()
    save_file(renamed, folder / "model.safetensors")
    ours, theirs = (open_checkpoint(path).weights for path in (folder, small_weights))
    assert ours.keys() == theirs.keys()
    assert max(worst(ours[name], theirs[name]) for name in ours if name.startswith("dino.")) == 0


def test_a_dino_file_of_another_name_is_found(folder: Path) -> None:
    """What comes after the keys in use may be absent from it."""
    (folder / "dinov2_vitb14_pretrain.pth").rename(folder / "dino.pth")
    change(folder / "dino.pth", {}, "blocks.1.mlp", "norm", "mask_token")
    assert "dino.cls_token" in open_checkpoint(folder).weights
    shutil.copy(folder / "dino.pth", folder / "other.pth")
    unfit("2 candidates", open_checkpoint, folder)


def test_all_faults_are_listed_in_one_error(folder: Path) -> None:
    wrong = {"surplus": torch.ones(1), "linear_scene.weight": torch.ones(2, 3)}
    change(folder / "upsrt.pt", wrong, "linear_scene.bias")
    change(folder / "upfusion2d.pt", {}, "control_model.zero_convs.0.0.bias")
    missing = r"2 missing: upsrt.linear_scene.bias, control_model.zero_convs.0.0.bias"
    shape = r"1 of another shape: upsrt.linear_scene.weight \(2, 3\) instead of \(32, 80\)"
    unfit(f"{missing}; 1 unexpected: upsrt.surplus; {shape}", open_checkpoint, folder)


def test_configurations_as_texts(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text("{")
    unfit("JSON", open_checkpoint, folder)
    config.unlink()  # then the released sizes hold
    unfit("of another shape", open_checkpoint, folder)


def test_paths_that_are_no_checkpoint(folder: Path, tmp_path: Path) -> None:
    unfit("give the folder", open_checkpoint, folder / "upsrt.pt")
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    unfit("no upfusion_config", open_checkpoint, tmp_path / "other.safetensors")
    for name in ("dinov2_vitb14_pretrain.pth", "upfusion2d.pt", "upsrt.pt"):
        (folder / name).unlink()
        unfit("DINOv2 file", open_checkpoint, folder)


def test_the_text_encoder_and_half_of_one(small_weights: Path, folder: Path) -> None:
    checkpoint = open_checkpoint(small_weights)
    encoder = load_text_encoder(checkpoint)
    states = encode_tokens(encoder, tokenize(""))
    assert states.shape == (1, 77, 32)
    # a causal encoder: the first state knows only the first token, so by hand it follows from one token alone
    alone = encoder(tokenize("")[:, :1]).last_hidden_state
    assert worst(states[:, :1], alone.float()) < 1e-5
    told = checkpoint.layout, checkpoint.text(), checkpoint.parts()["ControlNet"].tensors
    assert told == ("folder", "a text encoder", 112)
    assert checkpoint.parts()["UNet"].bytes == 4 * checkpoint.parts()["UNet"].parameters
    path = folder / "upfusion2d.pt"
    change(path, {}, "cond_stage_model.transformer.text_model.final_layer_norm.weight")
    unfit(r"1 missing: \S*final_layer_norm.weight", open_checkpoint, folder)
    change(path, {}, "cond_stage")
    checkpoint = open_checkpoint(folder)
    assert not checkpoint.has_text_encoder
    assert checkpoint.text().startswith("none")
    unfit("no text encoder", load_text_encoder, checkpoint)
    change(path, {"text_embeddings.default": torch.zeros(77, 32)})
    unfit(r"1 missing: \S*text_embeddings.empty", open_checkpoint, folder)


def test_mini_is_the_bundled_file(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "mini").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")  # a folder of that name does not come between
    model = UpFusion.load("mini", device="cpu")
    assert model.image_size == 16
    unfit("take no prompt", model.text_embeddings, "a red cup")
    assert layout.weights_path("mini") == tiny_bundle / "mini.safetensors"
    assert layout.weights_path(Path("mini")) == Path("mini")
    unfit("mini", UpFusion.load, Path("mini"), device="cpu")
    told = done("info", "mini")
    assert "trained on: nothing: random weights" in told
    assert 'steps: {"encoder": 0}' in told
    monkeypatch.setattr(files, "BUNDLED", tmp_path)
    unfit("bundles no model yet; give a folder of weights", UpFusion.load, "mini")


def test_facts_and_guidance(tiny_bundle: Path, tmp_path: Path, small_weights: Path) -> None:
    facts, copy = {"trained_on": "nothing: random weights", "steps": {"encoder": 0}}, tmp_path / "copy.safetensors"
    assert open_checkpoint("mini").facts == facts
    convert("mini", copy, dtype=torch.float32)
    assert open_checkpoint(copy).facts == facts
    convert("mini", copy, facts={"guidance": 2})
    assert open_checkpoint(copy).facts == {"guidance": 2}
    assert open_checkpoint(copy).model_id == open_checkpoint("mini").model_id
    assert recommended_guidance(copy) == 2.0
    assert recommended_guidance("mini") == recommended_guidance(small_weights) == recommended_guidance("none") == 9
    weights = read_weights(tiny_bundle / "mini.safetensors")
    kept = {name for name, tensor in weights.items() if tensor.dtype != torch.half}
    assert kept == {"text_embeddings.default", "text_embeddings.empty"}
