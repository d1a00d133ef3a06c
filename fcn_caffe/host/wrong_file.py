"""What a file is that was taken for another: what a download leaves in place of the file that was wanted."""

from __future__ import annotations

__all__ = ["HEAD", "wrong_file"]

HEAD = 512  # bytes that are looked at
_ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "RAR",
}
_TAR, _TAR_AT = b"ustar", 257
_PAGES = (b"<!doctype html", b"<html", b"<head")


def wrong_file(head: bytes) -> str:
    """Say what a file is by its first bytes, and how to get the one that was meant; empty where it may be that one.

    >>> wrong_file(b"<!DOCTYPE html><html>")
    'is a web page, not the file itself. Download the file by its own link (on GitHub: "Raw").'
    """
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return (
            "is a Git LFS pointer, not the file itself. Run `git lfs pull` where it comes from, or download the file."
        )
    if head.lstrip(b"\xef\xbb\xbf\r\n\t ").lower().startswith(_PAGES):
        return 'is a web page, not the file itself. Download the file by its own link (on GitHub: "Raw").'
    name = next((name for magic, name in _ARCHIVES.items() if head.startswith(magic)), "")
    if head[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        name = "tar"
    return f"is a {name} archive. Unpack it and give the file in it." if name else ""
