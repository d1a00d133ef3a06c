"""Caffe's messages (`caffe_pb2`) and their text form."""

from . import caffe_pb2
from .text import parse_text, read_text
from .text_writer import write_text

__all__ = ["caffe_pb2", "parse_text", "read_text", "write_text"]
