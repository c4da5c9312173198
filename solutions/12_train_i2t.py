# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12 · Train I2T: a picture in, text out
#
# **At the end** the model says what is in a picture, in writing, and, since it can speak, aloud.
#
# **The claim.** A picture is a short paragraph: a few dozen patch vectors through two linear layers, read by the same Thinker as
# any other text. Nobody ever showed the model a picture with a spoken caption; speech comes along for free.

# %% tags=["parameters"]
profile = "tiny"
budget = "full"

# %%
# %matplotlib inline
import io
import json

import matplotlib.pyplot as plt
import pyarrow.parquet
from PIL import Image
from safetensors.torch import load_file

from mmo.chat import IMAGE_MARK, ChatTokenizer, user_content
from mmo.checkpoint import latest_weights
from mmo.codec import Codec
from mmo.display import listen, show_losses
from mmo.generation import Generator, Prompt
from mmo.omni import load_model
from mmo.profiles import profile as find_profile
from mmo.profiles import run_dir
from mmo.training import read_log, train
from mmo.vision_encoder import VisionEncoder

settings = find_profile(profile)
run = run_dir(settings, budget)
config = settings.model
tokenizer = ChatTokenizer.load(settings.tokenizer_dir)

# %% [markdown]
# ## What there is to see

# %%
rows = pyarrow.parquet.read_table(settings.data_dir / "i2t-test.parquet").slice(0, 6).to_pylist()
pictures = [Image.open(io.BytesIO(row["image_bytes"])).convert("RGB") for row in rows]
captions = [json.loads(row["conversations"])[-1]["content"] for row in rows]
figure, axes = plt.subplots(1, len(rows), figsize=(2.2 * len(rows), 2.9))
for axis, picture, caption in zip(axes, pictures, captions):
    axis.imshow(picture)
    axis.set_title(caption, fontsize=7, wrap=True)
    axis.axis("off")
plt.show()

encoder = VisionEncoder.load(settings.vision_encoder_dir)
features = encoder.encode(pictures)
print(f"{len(pictures)} pictures -> {tuple(features.shape)}: {features.shape[1]} patches of {features.shape[2]} numbers each")

# %% [markdown]
# ## Train
#
# The projector alone, then everything at a smaller rate, with text and spoken questions mixed in: what is not rehearsed is forgotten.

# %%
result = train(settings, "i2t", budget, run)
display(show_losses(read_log(result.log_file), read_log(result.log_file, validation=True), "I2T"))

# %% [markdown]
# ## Look, then say
#
# Pictures whose captions were never drawn in training.

# %%
path, which = latest_weights(settings, run)
print(which)
codec = Codec.load(settings.codec_file, num_codebooks=config.num_codebooks)
generator = Generator(load_model(path), codec, tokenizer)
speaker = load_file(settings.data_dir / "voices.safetensors")["joe"]
content = user_content(f"{IMAGE_MARK}\nWhat do you see?", pictures=1, image_length=config.image_token_len)
ids = tokenizer.prompt([{"role": "user", "content": content}])
prompts = [Prompt(ids, speaker, image_features=each, seed=n) for n, each in enumerate(features)]
for picture, caption, spoken in zip(pictures, captions, generator.generate_batch(prompts)):
    display(picture.resize((160, 160)))
    print("wanted:", caption)
    display(listen(spoken.samples, spoken.sample_rate, spoken.text))

# %% [markdown]
# **Summary.** Three stages, one set of weights: it reads, hears, sees and speaks. The next notebook talks to it.
#
# **To try.** Swap the features of two pictures. If the answers do not swap with them, the model was guessing.
