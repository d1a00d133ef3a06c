"""Export: nets for other engines, as ONNX, torch.export's programs and OpenVINO's IR."""

from __future__ import annotations
