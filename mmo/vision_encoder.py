"""The rented eye: a picture becomes P feature vectors, one per patch.

    encoder = VisionEncoder.load("data/tiny/vision_encoder", device="cpu")
    features = encoder.encode([open_picture("cat.png")])     # (1, P, D_image)

One class loads both eyes, because both are folders of `transformers` with a `SiglipVisionModel` in them: SigLIP 2
(`google/siglip2-base-patch32-256` or its vision half alone: 256 px, patches of 32, P = 64, D_image = 768) and our tiny
one (96 px, patches of 12, P = 64, D_image = 128). The folder's `preprocessor_config.json` says how a picture is made
ready, its `config.json` how large the network is. The Thinker reads the *patch* features (after the last LayerNorm), not the pooled vector that
SigLIP's loss compares with captions (Zhai et al. 2023, "Sigmoid loss for language image pre-training").
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

from mmo.full_precision import full_float32

MAX_PIXELS = 64_000_000  # larger files are refused before they are unpacked: 64 megapixels are 192 MB


class VisionEncoder:
    """A frozen `SiglipVisionModel` with its image processor. `dim` is D_image, `patches` is P, `side` the input in pixels."""

    def __init__(self, model: SiglipVisionModel, processor: SiglipImageProcessor):
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.dim: int = model.config.hidden_size
        self.side: int = model.config.image_size
        self.patches: int = (model.config.image_size // model.config.patch_size) ** 2
        size = (processor.size["height"], processor.size["width"])
        if size != (self.side, self.side):
            raise ValueError(f"preprocessor_config.json makes pictures of {size}, config.json expects image_size {self.side}: make them equal")

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> VisionEncoder:
        """Reads a folder with `config.json`, `model.safetensors` and `preprocessor_config.json`; nothing is fetched.

        A folder of the whole SigLIP (with its text half) will do; the text half is left aside. FileNotFoundError names
        what is not there; ValueError names weights that the file lacks.
        """
        folder = Path(folder)
        for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name}: not there; a vision encoder is a folder with config.json, "
                                        "model.safetensors and preprocessor_config.json")
        try:
            config = SiglipVisionConfig.from_pretrained(folder)
            processor = SiglipImageProcessor.from_pretrained(folder, local_files_only=True)
            with torch.random.fork_rng(devices=[]):  # transformers draws a weight that the file then replaces; a training's dropout shall not depend on it
                model, report = SiglipVisionModel.from_pretrained(folder, config=config, dtype=dtype, local_files_only=True, output_loading_info=True)
        except SafetensorError as error:
            raise ValueError(f"{folder / 'model.safetensors'} is no safetensors file, or damaged: {error}") from error
        except (OSError, RuntimeError, ValueError) as error:  # a configuration cut short, or of another shape than the weights
            raise ValueError(f"{folder}: cannot be loaded ({error}); fetch it again") from error
        if report["missing_keys"]:
            raise ValueError(f"{folder / 'model.safetensors'}: lacks {sorted(report['missing_keys'])[:5]} … "
                             "Is it the weights of a SiglipVisionModel with this config.json?")
        return cls(model.to(device), processor)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def pixels(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Pictures of any size and mode as the network's input, (B, 3, side, side), on its device and in its dtype."""
        if not len(pictures):
            raise ValueError("encode() was given no pictures")
        for place, picture in enumerate(pictures):
            if not isinstance(picture, Image.Image):
                raise TypeError(f"picture {place} is a {type(picture).__name__}, not a PIL picture: read files with open_picture()")
        ready = self.processor([to_rgb(picture) for picture in pictures], return_tensors="pt", input_data_format="channels_last")
        return ready["pixel_values"].to(self.model.device, self.model.dtype)

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Patch features (B, P, D_image), row by row from the upper left patch; each picture by itself, outside autocast."""
        with full_float32(self.device):
            return self.model(self.pixels(pictures)).last_hidden_state

    def encode_at(self, picture: Image.Image, looks: Sequence[tuple[float, float]]) -> list[torch.Tensor]:
        """One picture, moved (down, right) at each look -> its patch features (P, D_image) then."""
        return list(self.encode([moved(picture, *look) for look in looks]))


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode to RGB: grey becomes three equal channels, 16-bit grey is scaled, what is transparent becomes white."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I") or picture.mode == "F":  # PIL would clip these at 255
        values = np.asarray(picture, np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        return Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def open_picture(source: str | Path | bytes, name: str = "") -> Image.Image:
    """Reads a picture from a file or from encoded bytes (a parquet cell) as RGB, turned upright as its EXIF says.

    Raises ValueError with `name` (by default the path) where it cannot be read or has more than MAX_PIXELS pixels.
    """
    name = name or (f"{len(source)} bytes" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise FileNotFoundError(f"{name}: no such picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we set our own bound below
            picture = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
            width, height = picture.size
            if width * height <= MAX_PIXELS:
                picture.load()
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: too many pixels ({error}); make the picture smaller") from error
    except Exception as error:  # OSError, SyntaxError, struct.error, TypeError …: each decoder has its own for damaged bytes
        raise ValueError(f"{name}: not a picture that can be read ({error}); PNG, JPEG and WebP work") from error
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name}: {width} x {height} pixels are too many (bound: {MAX_PIXELS:,}); make the picture smaller")
    return to_rgb(upright(picture))


def upright(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF says; where that is damaged, nobody knows how it was held, and it stays as it is."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # struct.error, TypeError, SyntaxError …
        return picture


def moved(picture: Image.Image, down: float, right: float) -> Image.Image:
    """The picture moved by these shares of its height and width, to the nearest pixel; what comes in at the edges repeats them."""
    pixels = np.asarray(to_rgb(picture))
    height, width, _ = pixels.shape
    y, x = round(down * height), round(right * width)
    padded = np.pad(pixels, ((abs(y), abs(y)), (abs(x), abs(x)), (0, 0)), mode="edge")
    return Image.fromarray(padded[abs(y) - y : abs(y) - y + height, abs(x) - x : abs(x) - x + width])


def perturb(pixels: np.ndarray, rng: np.random.Generator, noise: float = 10.0, light: float = 0.12, shift: int = 3) -> np.ndarray:
    """What a camera would do, at load: pictures (B, H, W, 3) or (H, W, 3), uint8, come back moved, relit and noisy.

    Each picture gets its own shift of up to `shift` pixels (edges repeated), its own brightness and contrast within
    ± `light`, and Gaussian noise whose deviation lies between 0 and `noise` of 255 levels.
    """
    if pixels.ndim == 3:
        return perturb(pixels[None], rng, noise, light, shift)[0]
    count, height, width, _ = pixels.shape
    padded = np.pad(pixels, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
    corners = rng.integers(0, 2 * shift + 1, (count, 2))
    moved = np.stack([picture[y:y + height, x:x + width] for picture, (y, x) in zip(padded, corners)]).astype(np.float32)

    def each(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (count, 1, 1, 1)).astype(np.float32)

    moved = (moved - 128) * each(1 - light, 1 + light) + 128 + 255 * each(-light / 2, light / 2)
    moved += rng.standard_normal(moved.shape, np.float32) * each(0, noise)
    return moved.clip(0, 255).round().astype(np.uint8)
