# /// script
# dependencies = ["Pillow>=11,<13"]
# ///
"""Thumbnails: a line is an image in base64, the result a PNG of at most 96 x 96 in base64.

slimq fn deploy thumbnail thumbnail.py
base64 -w0 photo.jpg | slimq add thumbnail
"""

import base64
import io

from PIL import Image, UnidentifiedImageError

Image.MAX_IMAGE_PIXELS = 50_000_000  # what is larger is refused before it takes memory


def handler(event, context):
    try:
        with Image.open(io.BytesIO(base64.b64decode(event, validate=True))) as image:
            image.thumbnail((96, 96))
            small = io.BytesIO()
            image.convert("RGBA").save(small, "PNG", optimize=True)
    except (ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise context.Failed(f"no image: {error}") from error
    return base64.b64encode(small.getvalue())
