"""CRF-RNN: a net's scores refined by mean field, learned together."""

from __future__ import annotations

from fcn_caffe.models.heads import head, loss
from fcn_caffe.models.nets import DataSource
from fcn_caffe.models.trunks import score, vgg
from fcn_caffe.net.net_spec import layers as L
from fcn_caffe.net.net_spec import params as P
from fcn_caffe.proto import caffe_pb2

__all__ = ["ITERATIONS", "crf_rnn"]

ITERATIONS = 10  # five while it is trained, ten afterwards, says the paper
THETAS = {"theta_alpha": 160, "theta_beta": 3, "theta_gamma": 3}


def crf_rnn(name: str, data: DataSource, classes: int, iterations: int = ITERATIONS) -> caffe_pb2.NetParameter:
    """Build CRF-RNN on FCN-8s: the scores and a copy of them, ten rounds of mean field with the image.

    Zheng, Jayasumana, Romera-Paredes, Vineet, Su, Du, Huang, Torr 2015 (ICCV). The layer is compared with the one that
    torrvision/crfasrnn's README shows (names, rates, thetas); its net was not at hand, the FCN-8s below is the paper's.

    Args:
        name: the net's name.
        data: its data layers.
        classes: the number of classes.
        iterations: the rounds of mean field.
    """
    n = data.start()
    image = n[data.tops[0]]
    scores = head(n, score(n, vgg(n, image), "score_fr", classes), image, classes, 8)
    n.unary, n.Q0 = L.Split(scores, ntop=2)
    options = {"num_iterations": iterations, "compatibility_mode": P.MultiStageMeanfield.POTTS, "threshold": 2}
    weights = {"spatial_filter_weight": 3, "bilateral_filter_weight": 5}
    n.inference1 = L.MultiStageMeanfield(
        n.unary,
        n.Q0,
        image,
        multi_stage_meanfield_param={**options, **THETAS, **weights},
        param=[{"lr_mult": rate} for rate in (10000, 10000, 1000)],
    )
    loss(n, n.inference1, n[data.labels[0]])
    return data.finish(n, name)
