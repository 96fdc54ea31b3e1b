"""Scores the model beside this file on a split, text to image: R1, R5, R10, mAP, mINP in percent.

    python evaluate.py --data=FOLDER               a folder with captions.json and its images
    python evaluate.py --data=FOLDER --split=test  a dataset that `ivt_jax prepare` wrote

Needs what requirements.txt beside it lists: torch, safetensors, tokenizers, numpy and Pillow; for a
prepared dataset also tensorflow-datasets. No JAX, no TensorFlow.
"""

import argparse
import io
import json
import sys
from pathlib import Path

import numpy as np
import torch
from modeling_ivt import IVTModel
from PIL import Image, ImageOps
from tokenizers import Tokenizer
from torch.nn.utils.rnn import pad_sequence

HERE = Path(__file__).parent


def read_split(folder, split):
    """Yields (encoded image, captions, identity) of every photo, in the order of the dataset."""
    if (folder / "captions.json").is_file():
        for record in json.loads((folder / "captions.json").read_text("utf-8")):
            image = (folder / record["image"]).read_bytes()
            yield image, record["captions"], record["identity"]
        return
    versions = sorted(folder.glob("*/features.json"))
    if not versions:
        sys.exit(f"{folder} holds neither captions.json nor a prepared dataset")
    import tensorflow_datasets as tfds

    keep = {"image": tfds.decode.SkipDecoding()}
    builder = tfds.builder_from_directory(versions[-1].parent)
    if split not in builder.info.splits:
        sys.exit(f"{folder} has no split {split!r}; it has {', '.join(builder.info.splits)}")
    for record in builder.as_data_source(split, decoders=keep):
        captions = [caption.decode("utf-8") for caption in record["captions"]]
        yield bytes(record["image"]), captions, int(record["identity"])


def pixels(photo, size):
    """A PIL image -> uint8 (3, H, W): upright, on white, resized without keeping its aspect."""
    photo = ImageOps.exif_transpose(photo)
    if photo.mode.startswith("I"):  # 16 bits a pixel: the high byte
        high = np.asarray(photo).astype(np.int64) >> 8
        photo = Image.fromarray(high.clip(0, 255).astype(np.uint8))
    elif photo.has_transparency_data:
        layer = photo.convert("RGBA")
        photo = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    height, width = size
    photo = photo.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)


def token_ids(tokenizer, captions):
    """Sentences -> input_ids (B, T) and attention_mask (B, T), padded to the longest."""
    # Lone surrogates come from broken files and cannot enter the tokenizer.
    clean = [caption.encode("utf-8", "ignore").decode("utf-8") for caption in captions]
    rows = [tokenizer.encode(text).ids for text in clean]
    for row, text in zip(rows, clean, strict=True):
        if not tokenizer.encode(text, add_special_tokens=False).ids:
            row.insert(1, tokenizer.token_to_id("[UNK]"))  # as the model saw it in training
    lengths = torch.tensor([len(row) for row in rows])
    pad = tokenizer.token_to_id("[PAD]")
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad)
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


@torch.inference_mode()
def encode_images(model, photos, batch_size):
    """PIL images -> float32 (n, D), L2-normalised."""
    found, batch = [], []

    def flush():
        images = torch.stack(batch).to(model.class_token.device)
        found.append(model(pixel_values=images.float() / 127.5 - 1)["image_embeds"].cpu())
        batch.clear()

    for photo in photos:
        batch.append(pixels(photo, model.config.image_size))
        if len(batch) == batch_size:
            flush()
    if batch:
        flush()
    return torch.cat(found).numpy()


@torch.inference_mode()
def encode_texts(model, tokenizer, captions, batch_size):
    """Sentences -> float32 (n, D), L2-normalised."""
    found = []
    for start in range(0, len(captions), batch_size):
        ids, mask = token_ids(tokenizer, captions[start : start + batch_size])
        device = model.class_token.device
        found.append(
            model(input_ids=ids.to(device), attention_mask=mask.to(device))["text_embeds"].cpu()
        )
    return torch.cat(found).numpy()


def metrics(queries, gallery, query_identities, gallery_identities, unmatched):
    """Scores in percent; a right photo is any of the query's identity, its own included.

    Photos are ranked by falling similarity, equal ones in the order of the gallery. Of n right
    photos at ranks r_1 < ... < r_n, from 1: AP = 1/n sum i/r_i, trapezoid AP (what the official
    IVT code reports) = 1/n sum (i/r_i + (i-1)/(r_i - 1))/2 with 0/0 := 1, INP = n/r_n.
    """
    rows = []
    for query, identity in zip(queries, query_identities, strict=True):
        right = gallery_identities == identity
        if not right.any():
            if unmatched == "error":
                sys.exit(f"no photo of identity {identity} is in the gallery; see --unmatched")
            if unmatched == "count":
                rows.append([0.0] * 6)
            continue
        # Rounded from float64, equal photos have equal scores whatever their place in a product.
        scores = (gallery.astype(np.float64) @ query).astype(np.float32)
        ranks = 1 + np.flatnonzero(right[np.argsort(-scores, kind="stable")])
        hits = np.arange(1, len(ranks) + 1)
        precision = hits / ranks
        before = np.where(ranks == 1, 1.0, (hits - 1) / np.maximum(ranks - 1, 1))
        recalls = [float(ranks[0] <= k) for k in (1, 5, 10)]
        inverse = len(ranks) / ranks[-1]
        rows.append([*recalls, precision.mean(), ((precision + before) / 2).mean(), inverse])
    if not rows:
        sys.exit("no caption has a photo of its person in the gallery; there is nothing to score")
    names = ("R1", "R5", "R10", "mAP", "mAP_trapezoid", "mINP")
    return dict(zip(names, (100 * np.mean(rows, axis=0)).tolist(), strict=True))


def evaluate(model_folder, data, split, *, batch_size, device, unmatched):
    """Encodes and scores a split with the model of a folder; see `metrics`."""
    model = IVTModel.from_pretrained(model_folder).eval().to(device)
    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    captions, query_identities, identities = [], [], []

    def photos():
        for image, texts, identity in read_split(data, split):
            identities.append(identity)
            captions.extend(texts)
            query_identities.extend([identity] * len(texts))
            yield Image.open(io.BytesIO(image), formats=("JPEG", "PNG", "WEBP"))

    gallery = encode_images(model, photos(), batch_size)
    queries = encode_texts(model, tokenizer, captions, batch_size)
    found = metrics(queries, gallery, np.array(query_identities), np.array(identities), unmatched)
    return {
        "queries": len(captions),
        "gallery": len(identities),
        "identities": len(set(identities)),
        "metrics": found,
        "protocol": "text to image; every caption a query; gallery of unique images",
    }


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path, help="folder of the split or dataset")
    parser.add_argument("--split", default="test", help="of a prepared dataset (default: test)")
    parser.add_argument("--model", default=HERE, type=Path, help="default: this file's folder")
    parser.add_argument("--batch_size", type=int, default=64, help="encoded at once (default: 64)")
    parser.add_argument("--device", default="cpu", help='"cpu" (default), "cuda", "mps"')
    parser.add_argument("--out", type=Path, help="JSON file to write the result to")
    parser.add_argument(
        "--unmatched",
        choices=("error", "skip", "count"),
        default="error",
        help="captions of people who are not in the gallery: refuse, leave out, or count as misses",
    )
    options = parser.parse_args()
    result = evaluate(
        options.model,
        options.data,
        options.split,
        batch_size=options.batch_size,
        device=options.device,
        unmatched=options.unmatched,
    )
    counts = "{queries} captions, {gallery} photos of {identities} people".format(**result)
    print(f"{options.data}: {counts}")
    for name, value in result["metrics"].items():
        print(f"{name:<14}{value:6.2f}")
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
        print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
