"""The options of the commands: flags, ranges, help (docstrings) and what is recorded follow from these fields.

To add one, add its field here and use it. Commands are composed of parts that they share; names are unique within one.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Le, MinLen

from ..support.errors import InputError
from ..support.files import BUNDLED_NAME
from .base import NO_OPTION, Flag, Without, configuration
from .field import Count, DistillConfig, Guidance, Preset, Steps
from .models import MAX_PHOTOS, MAX_VIEWS

# in place of a data set's folder, by the generator's version: objects that are made as they are needed
PROCEDURAL = {"procedural": 1, "procedural-2": 2}
EvaluationStage = Literal["white", "nearest", "predict", "sample", "field"]
EVALUATION_STAGES: tuple[EvaluationStage, ...] = get_args(EvaluationStage)

CONDUCT = Flag(section="conduct")
DATA = Flag(metavar="|".join([*PROCEDURAL, "DATA"]), places=tuple(PROCEDURAL))
SOURCE = Flag(section="sources")
OUTPUT = ("--output", "-o")
OF_EACH = ("photos", "masks", "photo_cameras", "output")  # what many objects cannot share
TRUSTED, HORIZON = "on with --photo-cameras", "found where silhouettes tell it, else 22.5"
RECOMMENDED = "what the weights recommend, else 9"
PhotoCount = Annotated[int, Ge(1), Le(MAX_PHOTOS)]
PhotoNumber = Annotated[int, Ge(1), Le(MAX_VIEWS)]
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
Elevation = Annotated[float, Ge(-89), Le(89)]
Step = Annotated[int, Ge(0), Le(10**9)]
Curriculum = tuple[Step, Step]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], CONDUCT]


@configuration
class Folder:
    """Where a run's results go."""

    output: Annotated[Path, Flag(OUTPUT, "OUT", section="conduct")]
    """Folder for all results; made if missing."""
    resume: Annotated[bool, CONDUCT] = False
    """Continue the interrupted run in OUT; its settings hold."""
    force: Annotated[bool, CONDUCT] = False
    """Replace the run in OUT."""


@configuration
class Photos:
    """What turns photos into a scene."""

    photos: Annotated[tuple[Path, ...], Flag(metavar="PHOTO...", argument=True, section="sources")] = ()
    """1 to 64 photos of one object, the first is the reference; or a folder of them; or a film (.mp4, .mov, .webm), of
    which six sharp frames from all sides are taken."""
    masks: Annotated[tuple[Path, ...], Flag(("--mask",), section="sources")] = ()
    """Mask of a photo, white on the object; once a photo, in the same order."""
    network_photos: Annotated[tuple[PhotoNumber, ...], Flag(metavar="NUMBERS", commas=True)] = ()
    """Which photos the networks see, photo 1 and up to 5 others; if not given, of more than 6 sharp ones of many sides.
    All go to cameras, fit and texture."""
    remove_background: bool = False
    """Find the object by rembg in photos without mask and alpha."""
    any_background: bool = False
    """Take photos without mask and alpha as they are, though their border is not white."""
    photo_cameras: Annotated[Path | None, SOURCE] = None
    """Where the photos were taken from: transforms.json, a folder of COLMAP's, cameras.json of splats, or the
    photo_cameras.json of a run; cameras that it lacks, but for the first photo's, `fast` finds beside the others."""


@configuration
class Networks:
    """The networks and how they compute."""

    model: Annotated[str | None, Flag(("--model", "-m"), "WEIGHTS", unset=BUNDLED_NAME, places=(BUNDLED_NAME,))] = None
    """mini, the small bundled model; a folder of released weights; or one merged .safetensors."""
    device: Device = "auto"
    """Where the networks run."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision of the networks; auto: float32 on a CPU, else float16."""


@configuration
class Sampler:
    """What turns a scene and a camera into a picture."""

    prompt: str | None = None
    """Replaces the default prompt (needs the extra package set `prompts`)."""
    steps: Annotated[Steps | None, Flag(unset="50, of the field 10")] = None
    """Denoising steps of a sampled view."""
    guidance: Annotated[Guidance | None, Flag(unset=RECOMMENDED)] = None
    """Guidance scale; 1 is none and twice as fast."""
    scheduler: Annotated[str | None, Flag(unset="ddim, of the field dpm++")] = None
    """ddim as released, or another scheduler of diffusers by name."""
    seed: Seed = 0
    """Start of all random numbers."""
    batch_size: Count = 4
    """Views that are sampled at once."""

    def of_views(self) -> dict[str, Any]:
        """Steps, guidance and scheduler of sampled views, as `UpFusion.sample` takes them."""
        return {"steps": self.steps or 50, "guidance": self.guidance, "scheduler": self.scheduler or "ddim"}


@configuration
class Orbit:
    """Cameras, and the film of what they see."""

    count: Annotated[int, Ge(1), Le(1000)] = 8
    """Cameras of the orbit, beginning at photo 1's."""
    elevation: Annotated[Elevation | None, Flag(unset="photo 1's")] = None
    """Degrees of the orbit above the horizon."""
    distance: Annotated[float, Ge(0.2), Le(10)] = 1.0
    """Radius of the orbit in units of photo 1's distance."""
    cameras: Annotated[Path | None, SOURCE] = None
    """JSON list of cameras instead of an orbit: {"azimuth_degrees", "elevation_degrees", "distance"} or
    {"camera_to_world", "focal"}."""
    video: Literal["gif", "mp4", "none"] = "gif"
    """Film of the views, in their order."""


@configuration
class Surface:
    """How a field becomes a mesh."""

    resolution: Annotated[int, Ge(16), Le(1024)] = 256
    """Samples of the density along the object's longest side."""
    threshold: Annotated[Annotated[float, Ge(1e-6)] | None, Flag(unset="chosen by silhouettes")] = None
    """Density at the mesh's surface, per scene unit."""
    texture_size: Annotated[int, Ge(0), Le(8192)] = 1024
    """Side of the mesh's texture in pixels, e.g. 1024, 2048 or 4096; 0, and .ply and .stl, colour the vertices
    instead."""
    faces: Annotated[Annotated[int, Ge(16)] | None, Flag(unset="all")] = None
    """Most triangles of the mesh."""
    size_mm: Annotated[Annotated[float, Ge(0.001), Le(100_000)] | None, Flag(unset="in scene units")] = None
    """Longest side of the written mesh in millimetres, for printing; a .glb has it in metres, as its format says."""
    up: Literal["y", "z"] = "y"
    """Axis that points up in .obj, .ply and .stl; programs for printing want z. In .glb it is always y."""

    def __post_init__(self) -> None:
        if 0 < self.texture_size < 64:
            raise InputError(f"--texture-size must be 0 or between 64 and 8192, got {self.texture_size}; change it")


@configuration
class Spread:
    """How work is spread over processes and machines; the results do not follow from it."""

    engine: Annotated[Literal["local", "ray"], CONDUCT] = "local"
    """Processes here, or actors of the ray cluster that RAY_ADDRESS names, or that is begun here (extra `cluster`)."""
    workers: Annotated[Count | None, Flag(section="conduct", unset="one a GPU; none: 1; of ray all that fit")] = None
    """Processes or actors, each with a model of its own."""
    threads: Annotated[Count | None, Flag(section="conduct", unset="1 beside others, alone torch's choice")] = None
    """Threads of torch in each, on which the last bits of results may hang."""
    cpus: Annotated[Count, CONDUCT] = 1
    """Of ray: processors that an actor takes."""


@configuration
class Demo:
    """Photos that come with the package -> views, field and mesh, and a sheet beside the truth, in minutes."""

    folder: Folder = Folder(Path("upfusion-demo"))
    object: Annotated[int, Ge(0)] = 4
    """Which of the objects that come with the package, from 0."""
    photos: PhotoCount = 3
    """How many photos of it the model is given."""
    networks: Networks = Networks()
    sampler: Sampler = Sampler(steps=15, scheduler="dpm++")


@configuration
class Reconstruct:
    """Photos -> novel views -> radiance field -> mesh, all in the folder OUT."""

    photos: Photos
    folder: Folder
    photo_elevation: Annotated[Elevation | None, Flag(("--photo-elevation", "--elevation"), unset=HORIZON)] = None
    """Degrees that photo 1 looks down from above the horizon."""
    networks: Networks = Networks()
    preset: Preset = "fast"
    """Schedule: a first look, for results, or the paper's."""
    views: Annotated[int, Ge(0), Le(100)] = 8
    """Novel views to sample and save as well."""
    turntable_size: Annotated[int, Ge(16), Le(1024)] = 128
    """Side of the turntable's pictures in pixels."""
    surface: Surface = Surface()
    photo_texture: Annotated[bool | None, Flag(("--photo-texture/--no-photo-texture",), unset=TRUSTED)] = None
    """Paint the mesh's texture with the photos' own pixels, where the cameras they were taken from are accepted."""
    formats: Annotated[tuple[Literal["glb", "obj", "ply", "stl"], ...], Flag(("--format",))] = ("glb",)
    """Of the mesh; repeatable."""
    perceptual: Annotated[Literal["lpips", "dino", "none"] | None, Flag(unset="the preset's")] = None
    """Perceptual loss."""
    perceptual_weights: Path | None = None
    """VGG weights for --perceptual lpips."""
    sampler: Sampler = Sampler()
    checkpoint_every: Annotated[Count, CONDUCT] = 100
    """Steps between checkpoints to resume from."""
    preview_every: Annotated[int, Ge(0), CONDUCT] = 50
    """Steps between updates of preview.png; 0: none."""


@configuration
class Batch:
    """Reconstructs many objects: a folder each, and an overview of all in index.csv and index.html."""

    output: Annotated[str, Flag(OUTPUT, "OUT", section="conduct")]
    """Folder for all results, made if missing; or an address of fsspec, such as s3://bucket/folder."""
    jobs: Annotated[Path | None, Flag(metavar="JOBS", argument=True, section="sources")] = None
    """A folder with a folder of photos per object, or a list of objects, a line each: .csv or .jsonl."""
    archive: bool = False
    """Write each object's result as one tar in WebDataset's form, in place of a folder."""
    spread: Spread = Spread()
    each: Annotated[Reconstruct, Without(OF_EACH)] = Reconstruct(Photos(), Folder(Path()))

    @property
    def folder(self) -> Folder:
        return self.each.folder

    @property
    def networks(self) -> Networks:
        return self.each.networks


@configuration
class Views:
    """Photos -> views from other cameras, by the diffusion model."""

    photos: Photos
    folder: Folder
    photo_elevation: Annotated[Elevation | None, Flag(unset=HORIZON)] = None
    """Degrees that photo 1 looks down from above the horizon."""
    networks: Networks = Networks()
    orbit: Orbit = Orbit()
    sampler: Sampler = Sampler(steps=50, scheduler="ddim")


@configuration
class Predict:
    """Photos -> views from other cameras at once, but blurry: the transformer's own colours."""

    photos: Photos
    folder: Folder
    photo_elevation: Annotated[Elevation | None, Flag(unset=HORIZON)] = None
    """Degrees that photo 1 looks down from above the horizon."""
    networks: Networks = Networks()
    orbit: Orbit = Orbit(count=32)
    size: Annotated[int, Ge(8), Le(1024)] = 64
    """Side of the pictures in pixels."""


@configuration
class Mesh:
    """Field -> mesh, again with other settings than its reconstruction's. The record is FILE.run.json."""

    field: Annotated[Path, Flag(metavar="FIELD", argument=True, section="sources")]
    """A field.safetensors of a reconstruction."""
    output: Annotated[Path, Flag(OUTPUT, "FILE", section="conduct")]
    """A .glb, .obj, .ply or .stl to write."""
    splats: bool = False
    """Write Gaussian splats, a .ply for their viewers and editors, in place of the mesh."""
    surface: Surface = Surface()
    device: Device = "auto"
    """Where the field is evaluated."""
    force: Annotated[bool, CONDUCT] = False
    """Replace FILE."""


@configuration
class Export:
    """Photos, views, masks and cameras of a run as a data set that Gaussian trainers, nerfstudio and COLMAP read."""

    run: Annotated[Path, Flag(metavar="RUN", argument=True, section="sources")]
    """Folder of a reconstruction."""
    output: Annotated[Path | None, Flag(OUTPUT, "OUT", section="conduct", unset="RUN/FORMAT")] = None
    """Folder to write, empty or new."""
    form: Annotated[Literal["nerfstudio", "colmap"], Flag(("--format",))] = "nerfstudio"
    """transforms.json, or a sparse model of COLMAP."""


@configuration
class Convert:
    """Weights: folder -> one merged file, or back. The record is run.json in a folder, FILE.run.json beside a file."""

    source: Annotated[str, Flag(metavar="SOURCE", argument=True, section="sources", places=(BUNDLED_NAME,))]
    """mini, a folder of weights or a merged .safetensors."""
    destination: Annotated[Path, Flag(metavar="DESTINATION", argument=True, section="conduct")]
    """The other: a new .safetensors, or a new folder."""
    dtype: Literal["float16", "float32", "bfloat16"] | None = None
    """Precision; kept unless given."""
    force: Annotated[bool, CONDUCT] = False
    """Replace DESTINATION."""


@configuration
class Info:
    """What a file or folder of weights holds."""

    weights: Annotated[str, Flag(metavar="WEIGHTS", argument=True, section="sources", places=(BUNDLED_NAME,))]
    """mini, a folder of weights or a merged .safetensors."""
    output: Annotated[Path | None, Flag(OUTPUT, section="conduct")] = None
    """Also write it as a JSON file."""
    force: Annotated[bool, CONDUCT] = False
    """Replace the JSON file."""


@configuration
class Train:
    """Trains a stage of the model; writes model.safetensors, which all commands take, and the state to resume from."""

    folder: Folder
    stage: Annotated[str | None, Flag(metavar="[encoder|autoencoder|diffusion]", argument=True)] = None
    """What to train."""
    config: Annotated[str | None, Flag(metavar="FILE.json|mini|released")] = None
    """Sizes and settings of the run."""
    data: Annotated[str | None, DATA] = None
    """What to train on: procedural objects, a folder of Co3Dv2, Objaverse renders, GSO, ShapeNet-SRN or meshes, or
    shards of `upfusion pack`."""
    validation: Annotated[str | None, replace(DATA, unset="the same, other examples")] = None
    """For validation."""
    init: Annotated[tuple[Path, ...], Flag(metavar="WEIGHTS", section="sources")] = ()
    """Start from it: SD 1.5, UpSRT, DINOv2 or our own; repeatable."""
    steps: Count | None = None
    """In place of the configuration's."""
    batch_size: Count | None = None
    """In place of the configuration's."""
    seed: Seed | None = None
    """In place of the configuration's."""
    curriculum: Annotated[Curriculum | None, Flag(metavar="STEP,STEP", unset="the configuration's", commas=True)] = None
    """Procedural objects have one part until the first step, two until the second, then all."""
    max_minutes: Annotated[Annotated[float, Ge(0)] | None, CONDUCT] = None
    """Stop after so long with a saved model; --resume goes on."""
    device: Annotated[Literal["auto", "cpu"], CONDUCT] = "auto"
    """auto: what accelerate finds."""


@configuration
class EvaluationConfig:
    """All that shapes an evaluation, beside the model and the data."""

    photos: Annotated[tuple[PhotoCount, ...], MinLen(1), Flag(metavar="NUMBERS", commas=True)] = (1, 3, 6)
    """Numbers of photos, 1 to 6."""
    views: Annotated[int, Ge(1), Le(32)] = 4
    """Target views an object."""
    stages: Annotated[tuple[EvaluationStage, ...], MinLen(1), Flag(metavar="STAGES", commas=True)] = EVALUATION_STAGES
    """Which of white,nearest,predict,sample,field."""
    seed: Seed = 0
    """Start of all random numbers."""
    steps: Steps = 50
    """Denoising steps of a sampled view."""
    guidance: Annotated[Guidance, NO_OPTION] = 9.0
    """Guidance scale."""
    scheduler: str = "ddim"
    """ddim as released, or another scheduler of diffusers by name."""
    batch_size: Count = 4
    """Views that are sampled at once."""
    alignment: Literal["object", "picture"] = "object"
    """Global similarity: in 3D where possible, or in 2D."""
    distill: Annotated[DistillConfig, NO_OPTION] = DistillConfig.fast()
    """Of the field; its guidance is its own."""
    mesh_resolution: Annotated[int, Ge(8), Le(1024), NO_OPTION] = 128
    """Cells along an axis of the box from which the field's surface is taken."""
    mesh_samples: Annotated[int, Ge(100), NO_OPTION] = 100_000
    """Points on each surface."""

    def __post_init__(self) -> None:
        for name, given in (("photos", self.photos), ("stages", self.stages)):
            if len(set(given)) != len(given):
                raise InputError(f"{name} must be one or more different ones, got {list(given)}; name each once")


@configuration
class Evaluate:
    """Measures a model beside baselines on objects with known views: report.json, report.md, plots, a picture sheet."""

    folder: Folder
    networks: Networks = Networks()
    data: Annotated[str | None, DATA] = None
    """What to evaluate on: a folder as in train, or shards of `upfusion pack`."""
    split: Annotated[Literal["test", "validation", "held_out"] | None, Flag(unset="test")] = None
    """Of the procedural objects."""
    objects: Count = 100
    """How many objects."""
    held_out: Annotated[Annotated[int, Ge(0)] | None, Flag(unset="a fifth of --objects")] = None
    """Further procedural objects, half with parts and half with a pattern that were never trained on, reported
    apart."""
    spread: Spread = Spread()
    protocol: EvaluationConfig = EvaluationConfig()
    guidance: Annotated[Guidance | None, Flag(unset=RECOMMENDED)] = None
    """Guidance scale; 1 is none and twice as fast."""
    preset: Preset = "fast"
    """How fields are distilled."""
    perceptual: Annotated[Literal["dino", "none"] | None, Flag(unset="the preset's")] = None
    """Perceptual term of the distillation."""
    lpips: Annotated[Path | None, Flag(metavar="FILE")] = None
    """Also measure LPIPS with your weights: a saved lpips.LPIPS(net='vgg'), or torchvision's VGG-16 with the heads
    (vgg.pth) beside it."""


@configuration
class Pack:
    """Packs objects with their views into WebDataset shards, which train and evaluate take as --data OUT."""

    folder: Folder
    data: Annotated[str | None, replace(DATA, argument=True)] = None
    """What to pack; the folders of train --data."""
    kind: Annotated[str | None, Flag(table="..data:DATA_FORMATS", unset="recognised by its files")] = None
    """Format of the folder."""
    split: Annotated[Literal["train", "validation", "test", "held_out"] | None, Flag(unset="train")] = None
    """Of the procedural objects."""
    objects: Annotated[Count | None, Flag(unset="all; procedural: 1000")] = None
    """The first so many objects."""
    views: Annotated[Annotated[int, Ge(1), Le(10_000)] | None, Flag(unset="24; recorded: all")] = None
    """Views of an object: rendered of a mesh or procedural one (of these up to 64), at most so many else."""
    size: Annotated[int, Ge(8), Le(4096)] = 256
    """Side of the views, pixels."""
    pictures: Annotated[Literal["png", "webp", "jpeg"], Flag(("--format",))] = "png"
    """Of the pictures; png and webp lose nothing."""
    depth: bool = False
    """Also pack depths, where there are any."""
    shard_size: Annotated[float, Ge(0.001), Le(1e12)] = 512.0
    """Largest shard, MB; an object is never split."""
    spread: Spread = Spread()
