"""`doctor --fix OUT` writes a net with the crop offsets of the coordinate map; its text stays as it is."""

from pathlib import Path

import pytest
from places import GOLDEN

from fcn_caffe import Net
from fcn_caffe.commands.doctor import main
from fcn_caffe.doctor.fix import fix_crops
from fcn_caffe.errors import PrototxtError
from fcn_caffe.proto.spans import layer_spans

REPORT = GOLDEN / "reports" / "crop_without_offset" / "net.prototxt"
UP = """# a crop of a crop
input: "x" input_shape { dim: 1 dim: 1 dim: 9 dim: 9 }
layer { name: "wide" type: "Convolution" bottom: "x" top: "w"
  convolution_param { num_output: 1 kernel_size: 3 pad: 4 } }
layer {
  name: "cut"  # to x
  type: "Crop"
  bottom: "w" bottom: "x" top: "c"
%s}
# the end
"""


def fixed(text: str, tmp_path: Path) -> str:
    source, target = tmp_path / "in.prototxt", tmp_path / "out.prototxt"
    source.write_text(text)
    fix_crops(source, target)
    return target.read_text()


def test_a_published_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.prototxt"
    assert main([str(REPORT), "--fix", str(out)]) == 0
    assert capsys.readouterr().out.endswith(f"wrote {out}: 'cut' has offset 10\n")
    line = 'bottom: "image" top: "edge" }\n'
    assert out.read_text() == REPORT.read_text().replace(line, line.replace("}", "crop_param { axis: 2 offset: 10 } }"))
    assert Net(out).layer("cut").param.crop_param.offset == [10]
    assert main([str(out), "--fix", str(out)]) == 0
    assert capsys.readouterr().out.endswith(f"wrote {out}: no crop needed another offset\n")
    assert main([str(REPORT)]) == 1


@pytest.mark.parametrize(
    "options",
    ["", "  crop_param { }\n", "  crop_param { offset: 1 } # wrong\n", "  crop_param: <\n  axis: 2 offset: 0\n>\n"],
)
def test_text_stays(options: str, tmp_path: Path) -> None:
    right = "crop_param { axis: 2 offset: 3 }"
    wanted = f"  {right}\n" if not options else f"  {right} # wrong\n" if "#" in options else f"  {right}\n"
    assert fixed(UP % options, tmp_path) == UP % wanted


def test_two_axes_and_both_phases(tmp_path: Path) -> None:
    text = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 1 dim: 9 dim: 9 } } }
layer { name: "w" type: "Convolution" bottom: "x" top: "w" convolution_param {
  num_output: 1 kernel_h: 3 kernel_w: 3 pad_h: 2 pad_w: 4 } }
layer { name: "c" type: "Crop" bottom: "w" bottom: "x" top: "c" include { phase: TRAIN } }
layer { name: "c" type: "Crop" bottom: "w" bottom: "x" top: "c" include { phase: TEST }
  crop_param { axis: 2 offset: 1 offset: 3 } }
"""
    made = fixed(text, tmp_path)
    assert made == text.replace("TRAIN } }", "TRAIN } crop_param { axis: 2 offset: 1 offset: 3 } }")


def test_a_list_of_layers(tmp_path: Path) -> None:
    text = UP.replace("layer {\n", "layer: [ {\n").replace(
        "}\n# the end", "}, { name: 'r' type: 'ReLU' bottom: 'c' top: 'r' } ]"
    )
    assert "crop_param { axis: 2 offset: 3 }\n}, {" in fixed(text % "", tmp_path)
    assert [span.name for span in layer_spans(text)] == ["layer"] * 3


def test_what_it_refuses(tmp_path: Path) -> None:
    source, target = tmp_path / "old.prototxt", tmp_path / "out.prototxt"
    source.write_text('layers { name: "c" type: RELU bottom: "x" top: "x" }')
    with pytest.raises(
        PrototxtError, match=r"has old `layers`, which have no crop_param\. Run `fcn-caffe upgrade_net`"
    ):
        fix_crops(source, target)
    source.write_text('base_lr: 1 lr_policy: "fixed"')
    with pytest.raises(PrototxtError):
        fix_crops(source, target)
    assert not target.exists()


def test_a_solver_is_no_net_to_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, solver = tmp_path / "net.prototxt", tmp_path / "solver.prototxt"
    net.write_text(UP % "")
    solver.write_text(f'net: "{net}" base_lr: 1 lr_policy: "fixed"')
    assert main([str(solver), "--fix", str(tmp_path / "out")]) == 1
    assert f"--fix writes a net, and {solver} is a solver. Give its net." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
