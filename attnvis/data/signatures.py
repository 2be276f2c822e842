"""A file's first bytes in, what kind of file it is out: suffixes are wrong too often."""

import re

__all__ = ["ENOUGH", "photo_kind", "say_other_kind"]

ENOUGH = 32  # bytes that tell a kind

PHOTO_KINDS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG",
    "WebP": rb"RIFF....WEBP",
    "TIFF": rb"II[*+]\0(?!.{4}CR)|MM\0[*+]",  # a Canon raw, CR2, is a TIFF but for its mark
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM.{4}\0\0\0\0.{4}[\x0c-\x7c]\0",
    "AVIF": rb"....ftypavi[fs]|....ftypmi[fa]1.{4,16}avif",
    "HEIC": rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)",
    "PNM": rb"P[1-6][\s#]",
    "PFM": rb"P[fF]\s",
}
UNREAD_PHOTOS = {
    "a JPEG 2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ",
    "a JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "a JPEG XR": rb"II\xbc",
    "a QOI": rb"qoif",
    "a PAM": rb"P7\s",
    "a Photoshop file": rb"8BPS",
    "a camera's raw file": rb"II\*\0.{4}CR|FUJIFILMCCD|IIR[OS]|IIU\0|\0MRM|....ftypcrx",
    "an OpenEXR": rb"\x76\x2f\x31\x01",
    "a Radiance HDR": rb"#\?(?:RADIANCE|RGBE)",
    "an icon": rb"\0\0[\x01\x02]\0",
    "a FITS file": rb"SIMPLE  =",
    "an SVG": rb"\s*(?:<\?xml[^>]*>\s*)?<svg",
}
OTHER_FILES = {  # what people give instead
    "a NumPy array": rb"\x93NUMPY",
    "a web page": rb"\s*<(?:!doctype html|html)",
    "a PDF": rb"%PDF",
    "PostScript": rb"%!PS|\xc5\xd0\xd3\xc6",
    "a video": rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI |\0\0\0.moov|\0\0\x01\xba|FLV\x01",
    "an archive": rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf|BZh|\xfd7zXZ",
    "a Git LFS pointer": rb"version https://git-lfs",
}
ADVICE = {
    "a video": "draw it with attnvis video, or save a frame as a photo",
    "a NumPy array": "give the array to attnvis.explain in Python",
    "a web page": "a download went wrong: download the photo itself",
    "an archive": "unpack it first",
    "a Git LFS pointer": "fetch it with git lfs pull",
    "a camera's raw file": "develop it first, or export it as JPEG or TIFF",
}
PHOTO = re.compile(
    b"|".join(b"(?P<%b>%b)" % (name.encode(), mark) for name, mark in PHOTO_KINDS.items()), re.DOTALL
)
MARKS = {
    name: re.compile(mark, re.DOTALL | re.IGNORECASE) for name, mark in (UNREAD_PHOTOS | OTHER_FILES).items()
}


def photo_kind(beginning: bytes) -> str | None:
    """JPEG, PNG, ...: the kind of photo that begins so; None where it is none that is read."""
    match = PHOTO.match(beginning)
    return match.lastgroup if match else None


def say_other_kind(beginning: bytes) -> str:
    """What begins so, if it is no photo that is read, and what to do."""
    for name, mark in MARKS.items():
        if mark.match(beginning):
            advice = ADVICE.get(name, "save it as JPEG, PNG or TIFF")
            if name in UNREAD_PHOTOS:
                return f"is {name}, which is not read here; {advice}"
            return f"is no photo but {name}; {advice}"
    return "is no photo of a kind that is read; save it as JPEG, PNG, WebP, TIFF, GIF or BMP"
