# Written by compile.py; do not edit.
from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from typing import Any, ClassVar, SupportsIndex, TypeVar, overload

from typing_extensions import Self

_T = TypeVar("_T")
_M = TypeVar("_M", bound=Message)

class Message:
    DESCRIPTOR: ClassVar[Descriptor]
    @classmethod
    def FromString(cls, data: bytes, /) -> Self: ...
    def ByteSize(self) -> int: ...
    def Clear(self) -> None: ...
    def ClearField(self, name: str, /) -> None: ...
    def CopyFrom(self, other: Self, /) -> None: ...
    def HasField(self, name: str, /) -> bool: ...
    def IsInitialized(self) -> bool: ...
    def ListFields(self) -> list[tuple[FieldDescriptor, Any]]: ...
    def MergeFrom(self, other: Self, /) -> None: ...
    def DiscardUnknownFields(self) -> None: ...
    def MergeFromString(self, data: bytes, /) -> int: ...
    def ParseFromString(self, data: bytes, /) -> int: ...
    def SerializePartialToString(self, *, deterministic: bool = ...) -> bytes: ...
    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...
    def SetInParent(self) -> None: ...
    def WhichOneof(self, name: str, /) -> str | None: ...

class _Scalars(MutableSequence[_T]):
    @overload
    def __getitem__(self, key: SupportsIndex, /) -> _T: ...
    @overload
    def __getitem__(self, key: slice, /) -> list[_T]: ...
    @overload
    def __setitem__(self, key: SupportsIndex, value: _T, /) -> None: ...
    @overload
    def __setitem__(self, key: slice, value: Iterable[_T], /) -> None: ...
    def __delitem__(self, key: SupportsIndex | slice, /) -> None: ...
    def __len__(self) -> int: ...
    def insert(self, key: SupportsIndex, value: _T, /) -> None: ...
    def MergeFrom(self, other: Self, /) -> None: ...

class _Messages(Sequence[_M]):
    @overload
    def __getitem__(self, key: SupportsIndex, /) -> _M: ...
    @overload
    def __getitem__(self, key: slice, /) -> list[_M]: ...
    def __delitem__(self, key: SupportsIndex | slice, /) -> None: ...
    def __len__(self) -> int: ...
    def add(self, **fields: object) -> _M: ...
    def append(self, value: _M, /) -> None: ...
    def extend(self, values: Iterable[_M], /) -> None: ...
    def insert(self, key: SupportsIndex, value: _M, /) -> None: ...
    def pop(self, key: SupportsIndex = ..., /) -> _M: ...
    def remove(self, value: _M, /) -> None: ...
    def reverse(self) -> None: ...
    def MergeFrom(self, other: Self, /) -> None: ...

class _Enum:
    DESCRIPTOR: EnumDescriptor
    def Name(self, number: int, /) -> str: ...
    def Value(self, name: str | None, /) -> int: ...
    def keys(self) -> list[str]: ...
    def values(self) -> list[int]: ...
    def items(self) -> list[tuple[str, int]]: ...

class Descriptor:
    name: str
    full_name: str
    file: FileDescriptor
    fields: Sequence[FieldDescriptor]
    fields_by_name: Mapping[str, FieldDescriptor]
    enum_types: Sequence[EnumDescriptor]
    enum_types_by_name: Mapping[str, EnumDescriptor]

class FieldDescriptor:
    name: str
    number: int
    type: int
    default_value: Any
    containing_type: Descriptor
    message_type: Descriptor | None
    enum_type: EnumDescriptor | None

class EnumDescriptor:
    name: str
    values: Sequence[EnumValueDescriptor]
    values_by_name: Mapping[str, EnumValueDescriptor]
    values_by_number: Mapping[int, EnumValueDescriptor]

class EnumValueDescriptor:
    name: str
    number: int

class FileDescriptor:
    name: str
    package: str
    message_types_by_name: Mapping[str, Descriptor]
    enum_types_by_name: Mapping[str, EnumDescriptor]
    def CopyToProto(self, proto: object, /) -> None: ...

TRAIN: int
TEST: int

class BlobShape(Message):
    @property
    def dim(self) -> _Scalars[int]: ...
    def __init__(
        self,
        *,
        dim: Iterable[int] | None = ...,
    ) -> None: ...

class BlobProto(Message):
    @property
    def shape(self) -> BlobShape: ...
    @property
    def data(self) -> _Scalars[float]: ...
    @property
    def diff(self) -> _Scalars[float]: ...
    @property
    def double_data(self) -> _Scalars[float]: ...
    @property
    def double_diff(self) -> _Scalars[float]: ...
    num: int
    channels: int
    height: int
    width: int
    def __init__(
        self,
        *,
        shape: BlobShape | None = ...,
        data: Iterable[float] | None = ...,
        diff: Iterable[float] | None = ...,
        double_data: Iterable[float] | None = ...,
        double_diff: Iterable[float] | None = ...,
        num: int | None = ...,
        channels: int | None = ...,
        height: int | None = ...,
        width: int | None = ...,
    ) -> None: ...

class BlobProtoVector(Message):
    @property
    def blobs(self) -> _Messages[BlobProto]: ...
    def __init__(
        self,
        *,
        blobs: Iterable[BlobProto] | None = ...,
    ) -> None: ...

class Datum(Message):
    channels: int
    height: int
    width: int
    data: bytes
    label: int
    @property
    def float_data(self) -> _Scalars[float]: ...
    encoded: bool
    def __init__(
        self,
        *,
        channels: int | None = ...,
        height: int | None = ...,
        width: int | None = ...,
        data: bytes | None = ...,
        label: int | None = ...,
        float_data: Iterable[float] | None = ...,
        encoded: bool | None = ...,
    ) -> None: ...

class FillerParameter(Message):
    VarianceNorm: ClassVar[_Enum]
    FAN_IN: ClassVar[int]
    FAN_OUT: ClassVar[int]
    AVERAGE: ClassVar[int]
    type: str
    value: float
    min: float
    max: float
    mean: float
    std: float
    sparse: int
    variance_norm: int
    def __init__(
        self,
        *,
        type: str | None = ...,
        value: float | None = ...,
        min: float | None = ...,
        max: float | None = ...,
        mean: float | None = ...,
        std: float | None = ...,
        sparse: int | None = ...,
        variance_norm: int | str | None = ...,
    ) -> None: ...

class NetParameter(Message):
    name: str
    @property
    def input(self) -> _Scalars[str]: ...
    @property
    def input_shape(self) -> _Messages[BlobShape]: ...
    @property
    def input_dim(self) -> _Scalars[int]: ...
    force_backward: bool
    @property
    def state(self) -> NetState: ...
    debug_info: bool
    @property
    def layer(self) -> _Messages[LayerParameter]: ...
    @property
    def layers(self) -> _Messages[V1LayerParameter]: ...
    fork: str
    def __init__(
        self,
        *,
        name: str | None = ...,
        input: Iterable[str] | None = ...,
        input_shape: Iterable[BlobShape] | None = ...,
        input_dim: Iterable[int] | None = ...,
        force_backward: bool | None = ...,
        state: NetState | None = ...,
        debug_info: bool | None = ...,
        layer: Iterable[LayerParameter] | None = ...,
        layers: Iterable[V1LayerParameter] | None = ...,
        fork: str | None = ...,
    ) -> None: ...

class SolverParameter(Message):
    SnapshotFormat: ClassVar[_Enum]
    HDF5: ClassVar[int]
    BINARYPROTO: ClassVar[int]
    SolverMode: ClassVar[_Enum]
    CPU: ClassVar[int]
    GPU: ClassVar[int]
    SolverType: ClassVar[_Enum]
    SGD: ClassVar[int]
    NESTEROV: ClassVar[int]
    ADAGRAD: ClassVar[int]
    RMSPROP: ClassVar[int]
    ADADELTA: ClassVar[int]
    ADAM: ClassVar[int]
    net: str
    @property
    def net_param(self) -> NetParameter: ...
    train_net: str
    @property
    def test_net(self) -> _Scalars[str]: ...
    @property
    def train_net_param(self) -> NetParameter: ...
    @property
    def test_net_param(self) -> _Messages[NetParameter]: ...
    @property
    def train_state(self) -> NetState: ...
    @property
    def test_state(self) -> _Messages[NetState]: ...
    @property
    def test_iter(self) -> _Scalars[int]: ...
    test_interval: int
    test_compute_loss: bool
    test_initialization: bool
    base_lr: float
    display: int
    average_loss: int
    max_iter: int
    iter_size: int
    lr_policy: str
    gamma: float
    power: float
    momentum: float
    weight_decay: float
    regularization_type: str
    stepsize: int
    @property
    def stepvalue(self) -> _Scalars[int]: ...
    clip_gradients: float
    snapshot: int
    snapshot_prefix: str
    snapshot_diff: bool
    snapshot_format: int
    solver_mode: int
    device_id: int
    random_seed: int
    type: str
    delta: float
    momentum2: float
    rms_decay: float
    debug_info: bool
    snapshot_after_train: bool
    solver_type: int
    layer_wise_reduce: bool
    @property
    def weights(self) -> _Scalars[str]: ...
    fork: str
    def __init__(
        self,
        *,
        net: str | None = ...,
        net_param: NetParameter | None = ...,
        train_net: str | None = ...,
        test_net: Iterable[str] | None = ...,
        train_net_param: NetParameter | None = ...,
        test_net_param: Iterable[NetParameter] | None = ...,
        train_state: NetState | None = ...,
        test_state: Iterable[NetState] | None = ...,
        test_iter: Iterable[int] | None = ...,
        test_interval: int | None = ...,
        test_compute_loss: bool | None = ...,
        test_initialization: bool | None = ...,
        base_lr: float | None = ...,
        display: int | None = ...,
        average_loss: int | None = ...,
        max_iter: int | None = ...,
        iter_size: int | None = ...,
        lr_policy: str | None = ...,
        gamma: float | None = ...,
        power: float | None = ...,
        momentum: float | None = ...,
        weight_decay: float | None = ...,
        regularization_type: str | None = ...,
        stepsize: int | None = ...,
        stepvalue: Iterable[int] | None = ...,
        clip_gradients: float | None = ...,
        snapshot: int | None = ...,
        snapshot_prefix: str | None = ...,
        snapshot_diff: bool | None = ...,
        snapshot_format: int | str | None = ...,
        solver_mode: int | str | None = ...,
        device_id: int | None = ...,
        random_seed: int | None = ...,
        type: str | None = ...,
        delta: float | None = ...,
        momentum2: float | None = ...,
        rms_decay: float | None = ...,
        debug_info: bool | None = ...,
        snapshot_after_train: bool | None = ...,
        solver_type: int | str | None = ...,
        layer_wise_reduce: bool | None = ...,
        weights: Iterable[str] | None = ...,
        fork: str | None = ...,
    ) -> None: ...

class SolverState(Message):
    iter: int
    learned_net: str
    @property
    def history(self) -> _Messages[BlobProto]: ...
    current_step: int
    def __init__(
        self,
        *,
        iter: int | None = ...,
        learned_net: str | None = ...,
        history: Iterable[BlobProto] | None = ...,
        current_step: int | None = ...,
    ) -> None: ...

class NetState(Message):
    phase: int
    level: int
    @property
    def stage(self) -> _Scalars[str]: ...
    def __init__(
        self,
        *,
        phase: int | str | None = ...,
        level: int | None = ...,
        stage: Iterable[str] | None = ...,
    ) -> None: ...

class NetStateRule(Message):
    phase: int
    min_level: int
    max_level: int
    @property
    def stage(self) -> _Scalars[str]: ...
    @property
    def not_stage(self) -> _Scalars[str]: ...
    def __init__(
        self,
        *,
        phase: int | str | None = ...,
        min_level: int | None = ...,
        max_level: int | None = ...,
        stage: Iterable[str] | None = ...,
        not_stage: Iterable[str] | None = ...,
    ) -> None: ...

class ParamSpec(Message):
    DimCheckMode: ClassVar[_Enum]
    STRICT: ClassVar[int]
    PERMISSIVE: ClassVar[int]
    name: str
    share_mode: int
    lr_mult: float
    decay_mult: float
    def __init__(
        self,
        *,
        name: str | None = ...,
        share_mode: int | str | None = ...,
        lr_mult: float | None = ...,
        decay_mult: float | None = ...,
    ) -> None: ...

class LayerParameter(Message):
    name: str
    type: str
    @property
    def bottom(self) -> _Scalars[str]: ...
    @property
    def top(self) -> _Scalars[str]: ...
    phase: int
    @property
    def loss_weight(self) -> _Scalars[float]: ...
    @property
    def param(self) -> _Messages[ParamSpec]: ...
    @property
    def blobs(self) -> _Messages[BlobProto]: ...
    @property
    def propagate_down(self) -> _Scalars[bool]: ...
    @property
    def include(self) -> _Messages[NetStateRule]: ...
    @property
    def exclude(self) -> _Messages[NetStateRule]: ...
    @property
    def transform_param(self) -> TransformationParameter: ...
    @property
    def loss_param(self) -> LossParameter: ...
    @property
    def accuracy_param(self) -> AccuracyParameter: ...
    @property
    def argmax_param(self) -> ArgMaxParameter: ...
    @property
    def batch_norm_param(self) -> BatchNormParameter: ...
    @property
    def bias_param(self) -> BiasParameter: ...
    @property
    def clip_param(self) -> ClipParameter: ...
    @property
    def concat_param(self) -> ConcatParameter: ...
    @property
    def contrastive_loss_param(self) -> ContrastiveLossParameter: ...
    @property
    def convolution_param(self) -> ConvolutionParameter: ...
    @property
    def crop_param(self) -> CropParameter: ...
    @property
    def data_param(self) -> DataParameter: ...
    @property
    def dropout_param(self) -> DropoutParameter: ...
    @property
    def dummy_data_param(self) -> DummyDataParameter: ...
    @property
    def eltwise_param(self) -> EltwiseParameter: ...
    @property
    def elu_param(self) -> ELUParameter: ...
    @property
    def embed_param(self) -> EmbedParameter: ...
    @property
    def exp_param(self) -> ExpParameter: ...
    @property
    def flatten_param(self) -> FlattenParameter: ...
    @property
    def hdf5_data_param(self) -> HDF5DataParameter: ...
    @property
    def hdf5_output_param(self) -> HDF5OutputParameter: ...
    @property
    def hinge_loss_param(self) -> HingeLossParameter: ...
    @property
    def image_data_param(self) -> ImageDataParameter: ...
    @property
    def infogain_loss_param(self) -> InfogainLossParameter: ...
    @property
    def inner_product_param(self) -> InnerProductParameter: ...
    @property
    def input_param(self) -> InputParameter: ...
    @property
    def log_param(self) -> LogParameter: ...
    @property
    def lrn_param(self) -> LRNParameter: ...
    @property
    def memory_data_param(self) -> MemoryDataParameter: ...
    @property
    def mvn_param(self) -> MVNParameter: ...
    @property
    def parameter_param(self) -> ParameterParameter: ...
    @property
    def pooling_param(self) -> PoolingParameter: ...
    @property
    def power_param(self) -> PowerParameter: ...
    @property
    def prelu_param(self) -> PReLUParameter: ...
    @property
    def python_param(self) -> PythonParameter: ...
    @property
    def recurrent_param(self) -> RecurrentParameter: ...
    @property
    def reduction_param(self) -> ReductionParameter: ...
    @property
    def relu_param(self) -> ReLUParameter: ...
    @property
    def reshape_param(self) -> ReshapeParameter: ...
    @property
    def scale_param(self) -> ScaleParameter: ...
    @property
    def sigmoid_param(self) -> SigmoidParameter: ...
    @property
    def softmax_param(self) -> SoftmaxParameter: ...
    @property
    def spp_param(self) -> SPPParameter: ...
    @property
    def slice_param(self) -> SliceParameter: ...
    @property
    def swish_param(self) -> SwishParameter: ...
    @property
    def tanh_param(self) -> TanHParameter: ...
    @property
    def threshold_param(self) -> ThresholdParameter: ...
    @property
    def tile_param(self) -> TileParameter: ...
    @property
    def window_data_param(self) -> WindowDataParameter: ...
    @property
    def border_copy_param(self) -> BorderCopyParameter: ...
    fork: str
    @property
    def bn_param(self) -> BNParameter: ...
    @property
    def upsample_param(self) -> UpsampleParameter: ...
    @property
    def unpooling_param(self) -> UnpoolingParameter: ...
    @property
    def interp_param(self) -> InterpParameter: ...
    @property
    def padding_param(self) -> PaddingParameter: ...
    @property
    def seg_accuracy_param(self) -> SegAccuracyParameter: ...
    @property
    def multi_stage_meanfield_param(self) -> MultiStageMeanfieldParameter: ...
    @property
    def dense_image_data_param(self) -> DenseImageDataParameter: ...
    @property
    def softmaxloss_param(self) -> SoftmaxLossParameter: ...
    @property
    def relu6_param(self) -> ReLU6Parameter: ...
    @property
    def shuffle_channel_param(self) -> ShuffleChannelParameter: ...
    @property
    def permute_param(self) -> PermuteParameter: ...
    @property
    def norm_param(self) -> NormalizeParameter: ...
    @property
    def normalize_param(self) -> HappynearNormalizeParameter: ...
    @property
    def prior_box_param(self) -> PriorBoxParameter: ...
    @property
    def detection_output_param(self) -> DetectionOutputParameter: ...
    @property
    def roi_pooling_param(self) -> ROIPoolingParameter: ...
    @property
    def psroi_pooling_param(self) -> PSROIPoolingParameter: ...
    @property
    def smooth_l1_loss_param(self) -> SmoothL1LossParameter: ...
    def __init__(
        self,
        *,
        name: str | None = ...,
        type: str | None = ...,
        bottom: Iterable[str] | None = ...,
        top: Iterable[str] | None = ...,
        phase: int | str | None = ...,
        loss_weight: Iterable[float] | None = ...,
        param: Iterable[ParamSpec] | None = ...,
        blobs: Iterable[BlobProto] | None = ...,
        propagate_down: Iterable[bool] | None = ...,
        include: Iterable[NetStateRule] | None = ...,
        exclude: Iterable[NetStateRule] | None = ...,
        transform_param: TransformationParameter | None = ...,
        loss_param: LossParameter | None = ...,
        accuracy_param: AccuracyParameter | None = ...,
        argmax_param: ArgMaxParameter | None = ...,
        batch_norm_param: BatchNormParameter | None = ...,
        bias_param: BiasParameter | None = ...,
        clip_param: ClipParameter | None = ...,
        concat_param: ConcatParameter | None = ...,
        contrastive_loss_param: ContrastiveLossParameter | None = ...,
        convolution_param: ConvolutionParameter | None = ...,
        crop_param: CropParameter | None = ...,
        data_param: DataParameter | None = ...,
        dropout_param: DropoutParameter | None = ...,
        dummy_data_param: DummyDataParameter | None = ...,
        eltwise_param: EltwiseParameter | None = ...,
        elu_param: ELUParameter | None = ...,
        embed_param: EmbedParameter | None = ...,
        exp_param: ExpParameter | None = ...,
        flatten_param: FlattenParameter | None = ...,
        hdf5_data_param: HDF5DataParameter | None = ...,
        hdf5_output_param: HDF5OutputParameter | None = ...,
        hinge_loss_param: HingeLossParameter | None = ...,
        image_data_param: ImageDataParameter | None = ...,
        infogain_loss_param: InfogainLossParameter | None = ...,
        inner_product_param: InnerProductParameter | None = ...,
        input_param: InputParameter | None = ...,
        log_param: LogParameter | None = ...,
        lrn_param: LRNParameter | None = ...,
        memory_data_param: MemoryDataParameter | None = ...,
        mvn_param: MVNParameter | None = ...,
        parameter_param: ParameterParameter | None = ...,
        pooling_param: PoolingParameter | None = ...,
        power_param: PowerParameter | None = ...,
        prelu_param: PReLUParameter | None = ...,
        python_param: PythonParameter | None = ...,
        recurrent_param: RecurrentParameter | None = ...,
        reduction_param: ReductionParameter | None = ...,
        relu_param: ReLUParameter | None = ...,
        reshape_param: ReshapeParameter | None = ...,
        scale_param: ScaleParameter | None = ...,
        sigmoid_param: SigmoidParameter | None = ...,
        softmax_param: SoftmaxParameter | None = ...,
        spp_param: SPPParameter | None = ...,
        slice_param: SliceParameter | None = ...,
        swish_param: SwishParameter | None = ...,
        tanh_param: TanHParameter | None = ...,
        threshold_param: ThresholdParameter | None = ...,
        tile_param: TileParameter | None = ...,
        window_data_param: WindowDataParameter | None = ...,
        border_copy_param: BorderCopyParameter | None = ...,
        fork: str | None = ...,
        bn_param: BNParameter | None = ...,
        upsample_param: UpsampleParameter | None = ...,
        unpooling_param: UnpoolingParameter | None = ...,
        interp_param: InterpParameter | None = ...,
        padding_param: PaddingParameter | None = ...,
        seg_accuracy_param: SegAccuracyParameter | None = ...,
        multi_stage_meanfield_param: MultiStageMeanfieldParameter | None = ...,
        dense_image_data_param: DenseImageDataParameter | None = ...,
        softmaxloss_param: SoftmaxLossParameter | None = ...,
        relu6_param: ReLU6Parameter | None = ...,
        shuffle_channel_param: ShuffleChannelParameter | None = ...,
        permute_param: PermuteParameter | None = ...,
        norm_param: NormalizeParameter | None = ...,
        normalize_param: HappynearNormalizeParameter | None = ...,
        prior_box_param: PriorBoxParameter | None = ...,
        detection_output_param: DetectionOutputParameter | None = ...,
        roi_pooling_param: ROIPoolingParameter | None = ...,
        psroi_pooling_param: PSROIPoolingParameter | None = ...,
        smooth_l1_loss_param: SmoothL1LossParameter | None = ...,
    ) -> None: ...

class TransformationParameter(Message):
    scale: float
    mirror: bool
    crop_size: int
    mean_file: str
    @property
    def mean_value(self) -> _Scalars[float]: ...
    force_color: bool
    force_gray: bool
    @property
    def scale_factors(self) -> _Scalars[float]: ...
    crop_height: int
    crop_width: int
    def __init__(
        self,
        *,
        scale: float | None = ...,
        mirror: bool | None = ...,
        crop_size: int | None = ...,
        mean_file: str | None = ...,
        mean_value: Iterable[float] | None = ...,
        force_color: bool | None = ...,
        force_gray: bool | None = ...,
        scale_factors: Iterable[float] | None = ...,
        crop_height: int | None = ...,
        crop_width: int | None = ...,
    ) -> None: ...

class LossParameter(Message):
    NormalizationMode: ClassVar[_Enum]
    FULL: ClassVar[int]
    VALID: ClassVar[int]
    BATCH_SIZE: ClassVar[int]
    NONE: ClassVar[int]
    PRE_FIXED: ClassVar[int]
    ignore_label: int
    normalization: int
    normalize: bool
    weight_by_label_freqs: bool
    @property
    def class_weighting(self) -> _Scalars[float]: ...
    pre_fixed_normalizer: float
    def __init__(
        self,
        *,
        ignore_label: int | None = ...,
        normalization: int | str | None = ...,
        normalize: bool | None = ...,
        weight_by_label_freqs: bool | None = ...,
        class_weighting: Iterable[float] | None = ...,
        pre_fixed_normalizer: float | None = ...,
    ) -> None: ...

class AccuracyParameter(Message):
    top_k: int
    axis: int
    ignore_label: int
    def __init__(
        self,
        *,
        top_k: int | None = ...,
        axis: int | None = ...,
        ignore_label: int | None = ...,
    ) -> None: ...

class ArgMaxParameter(Message):
    out_max_val: bool
    top_k: int
    axis: int
    def __init__(
        self,
        *,
        out_max_val: bool | None = ...,
        top_k: int | None = ...,
        axis: int | None = ...,
    ) -> None: ...

class ClipParameter(Message):
    min: float
    max: float
    def __init__(
        self,
        *,
        min: float | None = ...,
        max: float | None = ...,
    ) -> None: ...

class ConcatParameter(Message):
    axis: int
    concat_dim: int
    def __init__(
        self,
        *,
        axis: int | None = ...,
        concat_dim: int | None = ...,
    ) -> None: ...

class BatchNormParameter(Message):
    BatchNormEngine: ClassVar[_Enum]
    DEFAULT: ClassVar[int]
    CAFFE: ClassVar[int]
    CUDNN: ClassVar[int]
    MKL2017: ClassVar[int]
    MKLDNN: ClassVar[int]
    use_global_stats: bool
    moving_average_fraction: float
    eps: float
    scale_bias: bool
    @property
    def scale_filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    use_weight_bias: bool
    bias_term: bool
    @property
    def filler(self) -> FillerParameter: ...
    relu: bool
    engine: int
    def __init__(
        self,
        *,
        use_global_stats: bool | None = ...,
        moving_average_fraction: float | None = ...,
        eps: float | None = ...,
        scale_bias: bool | None = ...,
        scale_filler: FillerParameter | None = ...,
        bias_filler: FillerParameter | None = ...,
        use_weight_bias: bool | None = ...,
        bias_term: bool | None = ...,
        filler: FillerParameter | None = ...,
        relu: bool | None = ...,
        engine: int | str | None = ...,
    ) -> None: ...

class BiasParameter(Message):
    axis: int
    num_axes: int
    @property
    def filler(self) -> FillerParameter: ...
    def __init__(
        self,
        *,
        axis: int | None = ...,
        num_axes: int | None = ...,
        filler: FillerParameter | None = ...,
    ) -> None: ...

class BorderCopyParameter(Message):
    @property
    def start(self) -> _Scalars[int]: ...
    @property
    def end(self) -> _Scalars[int]: ...
    @property
    def copies(self) -> _Scalars[int]: ...
    def __init__(
        self,
        *,
        start: Iterable[int] | None = ...,
        end: Iterable[int] | None = ...,
        copies: Iterable[int] | None = ...,
    ) -> None: ...

class ContrastiveLossParameter(Message):
    margin: float
    legacy_version: bool
    def __init__(
        self,
        *,
        margin: float | None = ...,
        legacy_version: bool | None = ...,
    ) -> None: ...

class ConvolutionParameter(Message):
    Engine: ClassVar[_Enum]
    DEFAULT: ClassVar[int]
    CAFFE: ClassVar[int]
    CUDNN: ClassVar[int]
    num_output: int
    bias_term: bool
    @property
    def pad(self) -> _Scalars[int]: ...
    @property
    def kernel_size(self) -> _Scalars[int]: ...
    @property
    def stride(self) -> _Scalars[int]: ...
    @property
    def dilation(self) -> _Scalars[int]: ...
    pad_h: int
    pad_w: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    group: int
    @property
    def weight_filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    engine: int
    axis: int
    force_nd_im2col: bool
    hole: int
    hole_h: int
    hole_w: int
    def __init__(
        self,
        *,
        num_output: int | None = ...,
        bias_term: bool | None = ...,
        pad: Iterable[int] | None = ...,
        kernel_size: Iterable[int] | None = ...,
        stride: Iterable[int] | None = ...,
        dilation: Iterable[int] | None = ...,
        pad_h: int | None = ...,
        pad_w: int | None = ...,
        kernel_h: int | None = ...,
        kernel_w: int | None = ...,
        stride_h: int | None = ...,
        stride_w: int | None = ...,
        group: int | None = ...,
        weight_filler: FillerParameter | None = ...,
        bias_filler: FillerParameter | None = ...,
        engine: int | str | None = ...,
        axis: int | None = ...,
        force_nd_im2col: bool | None = ...,
        hole: int | None = ...,
        hole_h: int | None = ...,
        hole_w: int | None = ...,
    ) -> None: ...

class CropParameter(Message):
    axis: int
    @property
    def offset(self) -> _Scalars[int]: ...
    def __init__(
        self,
        *,
        axis: int | None = ...,
        offset: Iterable[int] | None = ...,
    ) -> None: ...

class DataParameter(Message):
    DB: ClassVar[_Enum]
    LEVELDB: ClassVar[int]
    LMDB: ClassVar[int]
    source: str
    batch_size: int
    rand_skip: int
    backend: int
    scale: float
    mean_file: str
    crop_size: int
    mirror: bool
    force_encoded_color: bool
    prefetch: int
    def __init__(
        self,
        *,
        source: str | None = ...,
        batch_size: int | None = ...,
        rand_skip: int | None = ...,
        backend: int | str | None = ...,
        scale: float | None = ...,
        mean_file: str | None = ...,
        crop_size: int | None = ...,
        mirror: bool | None = ...,
        force_encoded_color: bool | None = ...,
        prefetch: int | None = ...,
    ) -> None: ...

class DropoutParameter(Message):
    dropout_ratio: float
    sample_weights_test: bool
    scale_train: bool
    def __init__(
        self,
        *,
        dropout_ratio: float | None = ...,
        sample_weights_test: bool | None = ...,
        scale_train: bool | None = ...,
    ) -> None: ...

class DummyDataParameter(Message):
    @property
    def data_filler(self) -> _Messages[FillerParameter]: ...
    @property
    def shape(self) -> _Messages[BlobShape]: ...
    @property
    def num(self) -> _Scalars[int]: ...
    @property
    def channels(self) -> _Scalars[int]: ...
    @property
    def height(self) -> _Scalars[int]: ...
    @property
    def width(self) -> _Scalars[int]: ...
    def __init__(
        self,
        *,
        data_filler: Iterable[FillerParameter] | None = ...,
        shape: Iterable[BlobShape] | None = ...,
        num: Iterable[int] | None = ...,
        channels: Iterable[int] | None = ...,
        height: Iterable[int] | None = ...,
        width: Iterable[int] | None = ...,
    ) -> None: ...

class EltwiseParameter(Message):
    EltwiseOp: ClassVar[_Enum]
    PROD: ClassVar[int]
    SUM: ClassVar[int]
    MAX: ClassVar[int]
    operation: int
    @property
    def coeff(self) -> _Scalars[float]: ...
    stable_prod_grad: bool
    def __init__(
        self,
        *,
        operation: int | str | None = ...,
        coeff: Iterable[float] | None = ...,
        stable_prod_grad: bool | None = ...,
    ) -> None: ...

class ELUParameter(Message):
    alpha: float
    def __init__(
        self,
        *,
        alpha: float | None = ...,
    ) -> None: ...

class EmbedParameter(Message):
    num_output: int
    input_dim: int
    bias_term: bool
    @property
    def weight_filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    def __init__(
        self,
        *,
        num_output: int | None = ...,
        input_dim: int | None = ...,
        bias_term: bool | None = ...,
        weight_filler: FillerParameter | None = ...,
        bias_filler: FillerParameter | None = ...,
    ) -> None: ...

class ExpParameter(Message):
    base: float
    scale: float
    shift: float
    def __init__(
        self,
        *,
        base: float | None = ...,
        scale: float | None = ...,
        shift: float | None = ...,
    ) -> None: ...

class FlattenParameter(Message):
    axis: int
    end_axis: int
    def __init__(
        self,
        *,
        axis: int | None = ...,
        end_axis: int | None = ...,
    ) -> None: ...

class HDF5DataParameter(Message):
    source: str
    batch_size: int
    shuffle: bool
    def __init__(
        self,
        *,
        source: str | None = ...,
        batch_size: int | None = ...,
        shuffle: bool | None = ...,
    ) -> None: ...

class HDF5OutputParameter(Message):
    file_name: str
    def __init__(
        self,
        *,
        file_name: str | None = ...,
    ) -> None: ...

class HingeLossParameter(Message):
    Norm: ClassVar[_Enum]
    L1: ClassVar[int]
    L2: ClassVar[int]
    norm: int
    def __init__(
        self,
        *,
        norm: int | str | None = ...,
    ) -> None: ...

class ImageDataParameter(Message):
    LabelType: ClassVar[_Enum]
    NONE: ClassVar[int]
    IMAGE: ClassVar[int]
    PIXEL: ClassVar[int]
    source: str
    batch_size: int
    rand_skip: int
    shuffle: bool
    new_height: int
    new_width: int
    is_color: bool
    scale: float
    mean_file: str
    crop_size: int
    mirror: bool
    root_folder: str
    ignore_label: int
    label_type: int
    label_divide_factor: int
    has_label: bool
    max_labels: int
    other_object_label: int
    def __init__(
        self,
        *,
        source: str | None = ...,
        batch_size: int | None = ...,
        rand_skip: int | None = ...,
        shuffle: bool | None = ...,
        new_height: int | None = ...,
        new_width: int | None = ...,
        is_color: bool | None = ...,
        scale: float | None = ...,
        mean_file: str | None = ...,
        crop_size: int | None = ...,
        mirror: bool | None = ...,
        root_folder: str | None = ...,
        ignore_label: int | None = ...,
        label_type: int | str | None = ...,
        label_divide_factor: int | None = ...,
        has_label: bool | None = ...,
        max_labels: int | None = ...,
        other_object_label: int | None = ...,
    ) -> None: ...

class InfogainLossParameter(Message):
    source: str
    axis: int
    def __init__(
        self,
        *,
        source: str | None = ...,
        axis: int | None = ...,
    ) -> None: ...

class InnerProductParameter(Message):
    num_output: int
    bias_term: bool
    @property
    def weight_filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    axis: int
    transpose: bool
    def __init__(
        self,
        *,
        num_output: int | None = ...,
        bias_term: bool | None = ...,
        weight_filler: FillerParameter | None = ...,
        bias_filler: FillerParameter | None = ...,
        axis: int | None = ...,
        transpose: bool | None = ...,
    ) -> None: ...

class InputParameter(Message):
    @property
    def shape(self) -> _Messages[BlobShape]: ...
    def __init__(
        self,
        *,
        shape: Iterable[BlobShape] | None = ...,
    ) -> None: ...

class LogParameter(Message):
    base: float
    scale: float
    shift: float
    def __init__(
        self,
        *,
        base: float | None = ...,
        scale: float | None = ...,
        shift: float | None = ...,
    ) -> None: ...

class LRNParameter(Message):
    NormRegion: ClassVar[_Enum]
    ACROSS_CHANNELS: ClassVar[int]
    WITHIN_CHANNEL: ClassVar[int]
    Engine: ClassVar[_Enum]
    DEFAULT: ClassVar[int]
    CAFFE: ClassVar[int]
    CUDNN: ClassVar[int]
    local_size: int
    alpha: float
    beta: float
    norm_region: int
    k: float
    engine: int
    def __init__(
        self,
        *,
        local_size: int | None = ...,
        alpha: float | None = ...,
        beta: float | None = ...,
        norm_region: int | str | None = ...,
        k: float | None = ...,
        engine: int | str | None = ...,
    ) -> None: ...

class MemoryDataParameter(Message):
    batch_size: int
    channels: int
    height: int
    width: int
    def __init__(
        self,
        *,
        batch_size: int | None = ...,
        channels: int | None = ...,
        height: int | None = ...,
        width: int | None = ...,
    ) -> None: ...

class MVNParameter(Message):
    normalize_variance: bool
    across_channels: bool
    eps: float
    def __init__(
        self,
        *,
        normalize_variance: bool | None = ...,
        across_channels: bool | None = ...,
        eps: float | None = ...,
    ) -> None: ...

class ParameterParameter(Message):
    @property
    def shape(self) -> BlobShape: ...
    def __init__(
        self,
        *,
        shape: BlobShape | None = ...,
    ) -> None: ...

class PoolingParameter(Message):
    PoolMethod: ClassVar[_Enum]
    MAX: ClassVar[int]
    AVE: ClassVar[int]
    STOCHASTIC: ClassVar[int]
    Engine: ClassVar[_Enum]
    DEFAULT: ClassVar[int]
    CAFFE: ClassVar[int]
    CUDNN: ClassVar[int]
    RoundMode: ClassVar[_Enum]
    CEIL: ClassVar[int]
    FLOOR: ClassVar[int]
    pool: int
    pad: int
    pad_h: int
    pad_w: int
    kernel_size: int
    kernel_h: int
    kernel_w: int
    stride: int
    stride_h: int
    stride_w: int
    engine: int
    global_pooling: bool
    round_mode: int
    def __init__(
        self,
        *,
        pool: int | str | None = ...,
        pad: int | None = ...,
        pad_h: int | None = ...,
        pad_w: int | None = ...,
        kernel_size: int | None = ...,
        kernel_h: int | None = ...,
        kernel_w: int | None = ...,
        stride: int | None = ...,
        stride_h: int | None = ...,
        stride_w: int | None = ...,
        engine: int | str | None = ...,
        global_pooling: bool | None = ...,
        round_mode: int | str | None = ...,
    ) -> None: ...

class PowerParameter(Message):
    power: float
    scale: float
    shift: float
    def __init__(
        self,
        *,
        power: float | None = ...,
        scale: float | None = ...,
        shift: float | None = ...,
    ) -> None: ...

class PythonParameter(Message):
    module: str
    layer: str
    param_str: str
    share_in_parallel: bool
    def __init__(
        self,
        *,
        module: str | None = ...,
        layer: str | None = ...,
        param_str: str | None = ...,
        share_in_parallel: bool | None = ...,
    ) -> None: ...

class RecurrentParameter(Message):
    num_output: int
    @property
    def weight_filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    debug_info: bool
    expose_hidden: bool
    def __init__(
        self,
        *,
        num_output: int | None = ...,
        weight_filler: FillerParameter | None = ...,
        bias_filler: FillerParameter | None = ...,
        debug_info: bool | None = ...,
        expose_hidden: bool | None = ...,
    ) -> None: ...

class ReductionParameter(Message):
    ReductionOp: ClassVar[_Enum]
    SUM: ClassVar[int]
    ASUM: ClassVar[int]
    SUMSQ: ClassVar[int]
    MEAN: ClassVar[int]
    operation: int
    axis: int
    coeff: float
    def __init__(
        self,
        *,
        operation: int | str | None = ...,
        axis: int | None = ...,
        coeff: float | None = ...,
    ) -> None: ...

class ReLUParameter(Message):
    Engine: ClassVar[_Enum]
    DEFAULT: ClassVar[int]
    CAFFE: ClassVar[int]
    CUDNN: ClassVar[int]
    negative_slope: float
    engine: int
    def __init__(
        self,
        *,
        negative_slope: float | None = ...,
        engine: int | str | None = ...,
    ) -> None: ...

class ReshapeParameter(Message):
    @property
    def shape(self) -> BlobShape: ...
    axis: int
    num_axes: int
    def __init__(
        self,
        *,
        shape: BlobShape | None = ...,
        axis: int | None = ...,
        num_axes: int | None = ...,
    ) -> None: ...

class ScaleParameter(Message):
    axis: int
    num_axes: int
    @property
    def filler(self) -> FillerParameter: ...
    bias_term: bool
    @property
    def bias_filler(self) -> FillerParameter: ...
    def __init__(
        self,
        *,
        axis: int | None = ...,
        num_axes: int | None = ...,
        filler: FillerParameter | None = ...,
        bias_term: bool | None = ...,
        bias_filler: FillerParameter | None = ...,
    ) -> None: ...

class SigmoidParameter(Message):
    Engine: ClassVar[_Enum]
    DEFAULT: ClassVar[int]
    CAFFE: ClassVar[int]
    CUDNN: ClassVar[int]
    engine: int
    def __init__(
        self,
        *,
        engine: int | str | None = ...,
    ) -> None: ...

class SliceParameter(Message):
    axis: int
    @property
    def slice_point(self) -> _Scalars[int]: ...
    slice_dim: int
    def __init__(
        self,
        *,
        axis: int | None = ...,
        slice_point: Iterable[int] | None = ...,
        slice_dim: int | None = ...,
    ) -> None: ...

class SoftmaxParameter(Message):
    Engine: ClassVar[_Enum]
    DEFAULT: ClassVar[int]
    CAFFE: ClassVar[int]
    CUDNN: ClassVar[int]
    engine: int
    axis: int
    def __init__(
        self,
        *,
        engine: int | str | None = ...,
        axis: int | None = ...,
    ) -> None: ...

class SwishParameter(Message):
    beta: float
    def __init__(
        self,
        *,
        beta: float | None = ...,
    ) -> None: ...

class TanHParameter(Message):
    Engine: ClassVar[_Enum]
    DEFAULT: ClassVar[int]
    CAFFE: ClassVar[int]
    CUDNN: ClassVar[int]
    engine: int
    def __init__(
        self,
        *,
        engine: int | str | None = ...,
    ) -> None: ...

class TileParameter(Message):
    axis: int
    tiles: int
    def __init__(
        self,
        *,
        axis: int | None = ...,
        tiles: int | None = ...,
    ) -> None: ...

class ThresholdParameter(Message):
    threshold: float
    def __init__(
        self,
        *,
        threshold: float | None = ...,
    ) -> None: ...

class WindowDataParameter(Message):
    source: str
    scale: float
    mean_file: str
    batch_size: int
    crop_size: int
    mirror: bool
    fg_threshold: float
    bg_threshold: float
    fg_fraction: float
    context_pad: int
    crop_mode: str
    cache_images: bool
    root_folder: str
    def __init__(
        self,
        *,
        source: str | None = ...,
        scale: float | None = ...,
        mean_file: str | None = ...,
        batch_size: int | None = ...,
        crop_size: int | None = ...,
        mirror: bool | None = ...,
        fg_threshold: float | None = ...,
        bg_threshold: float | None = ...,
        fg_fraction: float | None = ...,
        context_pad: int | None = ...,
        crop_mode: str | None = ...,
        cache_images: bool | None = ...,
        root_folder: str | None = ...,
    ) -> None: ...

class SPPParameter(Message):
    PoolMethod: ClassVar[_Enum]
    MAX: ClassVar[int]
    AVE: ClassVar[int]
    STOCHASTIC: ClassVar[int]
    Engine: ClassVar[_Enum]
    DEFAULT: ClassVar[int]
    CAFFE: ClassVar[int]
    CUDNN: ClassVar[int]
    pyramid_height: int
    pool: int
    engine: int
    def __init__(
        self,
        *,
        pyramid_height: int | None = ...,
        pool: int | str | None = ...,
        engine: int | str | None = ...,
    ) -> None: ...

class V1LayerParameter(Message):
    LayerType: ClassVar[_Enum]
    NONE: ClassVar[int]
    ABSVAL: ClassVar[int]
    ACCURACY: ClassVar[int]
    ARGMAX: ClassVar[int]
    BNLL: ClassVar[int]
    CONCAT: ClassVar[int]
    CONTRASTIVE_LOSS: ClassVar[int]
    CONVOLUTION: ClassVar[int]
    DATA: ClassVar[int]
    DECONVOLUTION: ClassVar[int]
    DROPOUT: ClassVar[int]
    DUMMY_DATA: ClassVar[int]
    EUCLIDEAN_LOSS: ClassVar[int]
    ELTWISE: ClassVar[int]
    EXP: ClassVar[int]
    FLATTEN: ClassVar[int]
    HDF5_DATA: ClassVar[int]
    HDF5_OUTPUT: ClassVar[int]
    HINGE_LOSS: ClassVar[int]
    IM2COL: ClassVar[int]
    IMAGE_DATA: ClassVar[int]
    INFOGAIN_LOSS: ClassVar[int]
    INNER_PRODUCT: ClassVar[int]
    LRN: ClassVar[int]
    MEMORY_DATA: ClassVar[int]
    MULTINOMIAL_LOGISTIC_LOSS: ClassVar[int]
    MVN: ClassVar[int]
    POOLING: ClassVar[int]
    POWER: ClassVar[int]
    RELU: ClassVar[int]
    SIGMOID: ClassVar[int]
    SIGMOID_CROSS_ENTROPY_LOSS: ClassVar[int]
    SILENCE: ClassVar[int]
    SOFTMAX: ClassVar[int]
    SOFTMAX_LOSS: ClassVar[int]
    SPLIT: ClassVar[int]
    SLICE: ClassVar[int]
    TANH: ClassVar[int]
    WINDOW_DATA: ClassVar[int]
    THRESHOLD: ClassVar[int]
    DimCheckMode: ClassVar[_Enum]
    STRICT: ClassVar[int]
    PERMISSIVE: ClassVar[int]
    @property
    def bottom(self) -> _Scalars[str]: ...
    @property
    def top(self) -> _Scalars[str]: ...
    name: str
    @property
    def include(self) -> _Messages[NetStateRule]: ...
    @property
    def exclude(self) -> _Messages[NetStateRule]: ...
    type: int
    @property
    def blobs(self) -> _Messages[BlobProto]: ...
    @property
    def param(self) -> _Scalars[str]: ...
    @property
    def blob_share_mode(self) -> _Scalars[int]: ...
    @property
    def blobs_lr(self) -> _Scalars[float]: ...
    @property
    def weight_decay(self) -> _Scalars[float]: ...
    @property
    def loss_weight(self) -> _Scalars[float]: ...
    @property
    def accuracy_param(self) -> AccuracyParameter: ...
    @property
    def argmax_param(self) -> ArgMaxParameter: ...
    @property
    def concat_param(self) -> ConcatParameter: ...
    @property
    def contrastive_loss_param(self) -> ContrastiveLossParameter: ...
    @property
    def convolution_param(self) -> ConvolutionParameter: ...
    @property
    def data_param(self) -> DataParameter: ...
    @property
    def dropout_param(self) -> DropoutParameter: ...
    @property
    def dummy_data_param(self) -> DummyDataParameter: ...
    @property
    def eltwise_param(self) -> EltwiseParameter: ...
    @property
    def exp_param(self) -> ExpParameter: ...
    @property
    def hdf5_data_param(self) -> HDF5DataParameter: ...
    @property
    def hdf5_output_param(self) -> HDF5OutputParameter: ...
    @property
    def hinge_loss_param(self) -> HingeLossParameter: ...
    @property
    def image_data_param(self) -> ImageDataParameter: ...
    @property
    def infogain_loss_param(self) -> InfogainLossParameter: ...
    @property
    def inner_product_param(self) -> InnerProductParameter: ...
    @property
    def lrn_param(self) -> LRNParameter: ...
    @property
    def memory_data_param(self) -> MemoryDataParameter: ...
    @property
    def mvn_param(self) -> MVNParameter: ...
    @property
    def pooling_param(self) -> PoolingParameter: ...
    @property
    def power_param(self) -> PowerParameter: ...
    @property
    def relu_param(self) -> ReLUParameter: ...
    @property
    def sigmoid_param(self) -> SigmoidParameter: ...
    @property
    def softmax_param(self) -> SoftmaxParameter: ...
    @property
    def slice_param(self) -> SliceParameter: ...
    @property
    def tanh_param(self) -> TanHParameter: ...
    @property
    def threshold_param(self) -> ThresholdParameter: ...
    @property
    def window_data_param(self) -> WindowDataParameter: ...
    @property
    def transform_param(self) -> TransformationParameter: ...
    @property
    def loss_param(self) -> LossParameter: ...
    @property
    def layer(self) -> V0LayerParameter: ...
    fork: str
    @property
    def bn_param(self) -> BNParameter: ...
    @property
    def upsample_param(self) -> UpsampleParameter: ...
    @property
    def unpooling_param(self) -> UnpoolingParameter: ...
    @property
    def interp_param(self) -> InterpParameter: ...
    @property
    def padding_param(self) -> PaddingParameter: ...
    @property
    def seg_accuracy_param(self) -> SegAccuracyParameter: ...
    @property
    def multi_stage_meanfield_param(self) -> MultiStageMeanfieldParameter: ...
    @property
    def dense_image_data_param(self) -> DenseImageDataParameter: ...
    @property
    def softmaxloss_param(self) -> SoftmaxLossParameter: ...
    @property
    def relu6_param(self) -> ReLU6Parameter: ...
    @property
    def shuffle_channel_param(self) -> ShuffleChannelParameter: ...
    @property
    def permute_param(self) -> PermuteParameter: ...
    @property
    def norm_param(self) -> NormalizeParameter: ...
    @property
    def normalize_param(self) -> HappynearNormalizeParameter: ...
    @property
    def prior_box_param(self) -> PriorBoxParameter: ...
    @property
    def detection_output_param(self) -> DetectionOutputParameter: ...
    @property
    def roi_pooling_param(self) -> ROIPoolingParameter: ...
    @property
    def psroi_pooling_param(self) -> PSROIPoolingParameter: ...
    @property
    def smooth_l1_loss_param(self) -> SmoothL1LossParameter: ...
    def __init__(
        self,
        *,
        bottom: Iterable[str] | None = ...,
        top: Iterable[str] | None = ...,
        name: str | None = ...,
        include: Iterable[NetStateRule] | None = ...,
        exclude: Iterable[NetStateRule] | None = ...,
        type: int | str | None = ...,
        blobs: Iterable[BlobProto] | None = ...,
        param: Iterable[str] | None = ...,
        blob_share_mode: Iterable[int | str] | None = ...,
        blobs_lr: Iterable[float] | None = ...,
        weight_decay: Iterable[float] | None = ...,
        loss_weight: Iterable[float] | None = ...,
        accuracy_param: AccuracyParameter | None = ...,
        argmax_param: ArgMaxParameter | None = ...,
        concat_param: ConcatParameter | None = ...,
        contrastive_loss_param: ContrastiveLossParameter | None = ...,
        convolution_param: ConvolutionParameter | None = ...,
        data_param: DataParameter | None = ...,
        dropout_param: DropoutParameter | None = ...,
        dummy_data_param: DummyDataParameter | None = ...,
        eltwise_param: EltwiseParameter | None = ...,
        exp_param: ExpParameter | None = ...,
        hdf5_data_param: HDF5DataParameter | None = ...,
        hdf5_output_param: HDF5OutputParameter | None = ...,
        hinge_loss_param: HingeLossParameter | None = ...,
        image_data_param: ImageDataParameter | None = ...,
        infogain_loss_param: InfogainLossParameter | None = ...,
        inner_product_param: InnerProductParameter | None = ...,
        lrn_param: LRNParameter | None = ...,
        memory_data_param: MemoryDataParameter | None = ...,
        mvn_param: MVNParameter | None = ...,
        pooling_param: PoolingParameter | None = ...,
        power_param: PowerParameter | None = ...,
        relu_param: ReLUParameter | None = ...,
        sigmoid_param: SigmoidParameter | None = ...,
        softmax_param: SoftmaxParameter | None = ...,
        slice_param: SliceParameter | None = ...,
        tanh_param: TanHParameter | None = ...,
        threshold_param: ThresholdParameter | None = ...,
        window_data_param: WindowDataParameter | None = ...,
        transform_param: TransformationParameter | None = ...,
        loss_param: LossParameter | None = ...,
        layer: V0LayerParameter | None = ...,
        fork: str | None = ...,
        bn_param: BNParameter | None = ...,
        upsample_param: UpsampleParameter | None = ...,
        unpooling_param: UnpoolingParameter | None = ...,
        interp_param: InterpParameter | None = ...,
        padding_param: PaddingParameter | None = ...,
        seg_accuracy_param: SegAccuracyParameter | None = ...,
        multi_stage_meanfield_param: MultiStageMeanfieldParameter | None = ...,
        dense_image_data_param: DenseImageDataParameter | None = ...,
        softmaxloss_param: SoftmaxLossParameter | None = ...,
        relu6_param: ReLU6Parameter | None = ...,
        shuffle_channel_param: ShuffleChannelParameter | None = ...,
        permute_param: PermuteParameter | None = ...,
        norm_param: NormalizeParameter | None = ...,
        normalize_param: HappynearNormalizeParameter | None = ...,
        prior_box_param: PriorBoxParameter | None = ...,
        detection_output_param: DetectionOutputParameter | None = ...,
        roi_pooling_param: ROIPoolingParameter | None = ...,
        psroi_pooling_param: PSROIPoolingParameter | None = ...,
        smooth_l1_loss_param: SmoothL1LossParameter | None = ...,
    ) -> None: ...

class V0LayerParameter(Message):
    PoolMethod: ClassVar[_Enum]
    MAX: ClassVar[int]
    AVE: ClassVar[int]
    STOCHASTIC: ClassVar[int]
    name: str
    type: str
    num_output: int
    biasterm: bool
    @property
    def weight_filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    pad: int
    kernelsize: int
    group: int
    stride: int
    pool: int
    dropout_ratio: float
    local_size: int
    alpha: float
    beta: float
    k: float
    source: str
    scale: float
    meanfile: str
    batchsize: int
    cropsize: int
    mirror: bool
    @property
    def blobs(self) -> _Messages[BlobProto]: ...
    @property
    def blobs_lr(self) -> _Scalars[float]: ...
    @property
    def weight_decay(self) -> _Scalars[float]: ...
    rand_skip: int
    det_fg_threshold: float
    det_bg_threshold: float
    det_fg_fraction: float
    det_context_pad: int
    det_crop_mode: str
    new_num: int
    new_channels: int
    new_height: int
    new_width: int
    shuffle_images: bool
    concat_dim: int
    @property
    def hdf5_output_param(self) -> HDF5OutputParameter: ...
    def __init__(
        self,
        *,
        name: str | None = ...,
        type: str | None = ...,
        num_output: int | None = ...,
        biasterm: bool | None = ...,
        weight_filler: FillerParameter | None = ...,
        bias_filler: FillerParameter | None = ...,
        pad: int | None = ...,
        kernelsize: int | None = ...,
        group: int | None = ...,
        stride: int | None = ...,
        pool: int | str | None = ...,
        dropout_ratio: float | None = ...,
        local_size: int | None = ...,
        alpha: float | None = ...,
        beta: float | None = ...,
        k: float | None = ...,
        source: str | None = ...,
        scale: float | None = ...,
        meanfile: str | None = ...,
        batchsize: int | None = ...,
        cropsize: int | None = ...,
        mirror: bool | None = ...,
        blobs: Iterable[BlobProto] | None = ...,
        blobs_lr: Iterable[float] | None = ...,
        weight_decay: Iterable[float] | None = ...,
        rand_skip: int | None = ...,
        det_fg_threshold: float | None = ...,
        det_bg_threshold: float | None = ...,
        det_fg_fraction: float | None = ...,
        det_context_pad: int | None = ...,
        det_crop_mode: str | None = ...,
        new_num: int | None = ...,
        new_channels: int | None = ...,
        new_height: int | None = ...,
        new_width: int | None = ...,
        shuffle_images: bool | None = ...,
        concat_dim: int | None = ...,
        hdf5_output_param: HDF5OutputParameter | None = ...,
    ) -> None: ...

class PReLUParameter(Message):
    @property
    def filler(self) -> FillerParameter: ...
    channel_shared: bool
    def __init__(
        self,
        *,
        filler: FillerParameter | None = ...,
        channel_shared: bool | None = ...,
    ) -> None: ...

class BNParameter(Message):
    BNMode: ClassVar[_Enum]
    LEARN: ClassVar[int]
    INFERENCE: ClassVar[int]
    Engine: ClassVar[_Enum]
    DEFAULT: ClassVar[int]
    CAFFE: ClassVar[int]
    CUDNN: ClassVar[int]
    @property
    def scale_filler(self) -> FillerParameter: ...
    @property
    def shift_filler(self) -> FillerParameter: ...
    bn_mode: int
    @property
    def slope_filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    momentum: float
    eps: float
    frozen: bool
    engine: int
    moving_average: bool
    decay: float
    def __init__(
        self,
        *,
        scale_filler: FillerParameter | None = ...,
        shift_filler: FillerParameter | None = ...,
        bn_mode: int | str | None = ...,
        slope_filler: FillerParameter | None = ...,
        bias_filler: FillerParameter | None = ...,
        momentum: float | None = ...,
        eps: float | None = ...,
        frozen: bool | None = ...,
        engine: int | str | None = ...,
        moving_average: bool | None = ...,
        decay: float | None = ...,
    ) -> None: ...

class UpsampleParameter(Message):
    scale: int
    scale_h: int
    scale_w: int
    pad_out_h: bool
    pad_out_w: bool
    upsample_h: int
    upsample_w: int
    def __init__(
        self,
        *,
        scale: int | None = ...,
        scale_h: int | None = ...,
        scale_w: int | None = ...,
        pad_out_h: bool | None = ...,
        pad_out_w: bool | None = ...,
        upsample_h: int | None = ...,
        upsample_w: int | None = ...,
    ) -> None: ...

class UnpoolingParameter(Message):
    UnpoolMethod: ClassVar[_Enum]
    MAX: ClassVar[int]
    AVE: ClassVar[int]
    TILE: ClassVar[int]
    Engine: ClassVar[_Enum]
    DEFAULT: ClassVar[int]
    CAFFE: ClassVar[int]
    CUDNN: ClassVar[int]
    unpool: int
    kernel_size: int
    stride: int
    pad: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    engine: int
    unpool_size: int
    unpool_h: int
    unpool_w: int
    def __init__(
        self,
        *,
        unpool: int | str | None = ...,
        kernel_size: int | None = ...,
        stride: int | None = ...,
        pad: int | None = ...,
        kernel_h: int | None = ...,
        kernel_w: int | None = ...,
        stride_h: int | None = ...,
        stride_w: int | None = ...,
        pad_h: int | None = ...,
        pad_w: int | None = ...,
        engine: int | str | None = ...,
        unpool_size: int | None = ...,
        unpool_h: int | None = ...,
        unpool_w: int | None = ...,
    ) -> None: ...

class InterpParameter(Message):
    height: int
    width: int
    zoom_factor: int
    shrink_factor: int
    pad_beg: int
    pad_end: int
    def __init__(
        self,
        *,
        height: int | None = ...,
        width: int | None = ...,
        zoom_factor: int | None = ...,
        shrink_factor: int | None = ...,
        pad_beg: int | None = ...,
        pad_end: int | None = ...,
    ) -> None: ...

class PaddingParameter(Message):
    pad_beg: int
    pad_end: int
    def __init__(
        self,
        *,
        pad_beg: int | None = ...,
        pad_end: int | None = ...,
    ) -> None: ...

class SegAccuracyParameter(Message):
    AccuracyMetric: ClassVar[_Enum]
    PixelAccuracy: ClassVar[int]
    ClassAccuracy: ClassVar[int]
    PixelIOU: ClassVar[int]
    metric: int
    @property
    def ignore_label(self) -> _Scalars[int]: ...
    reset: bool
    def __init__(
        self,
        *,
        metric: int | str | None = ...,
        ignore_label: Iterable[int] | None = ...,
        reset: bool | None = ...,
    ) -> None: ...

class MultiStageMeanfieldParameter(Message):
    Mode: ClassVar[_Enum]
    POTTS: ClassVar[int]
    SEMI_METRIC: ClassVar[int]
    compatibility_mode: int
    threshold: float
    theta_alpha: float
    theta_beta: float
    theta_gamma: float
    num_iterations: int
    spatial_filter_weight: float
    bilateral_filter_weight: float
    forced_spatial_filter_weight: float
    forced_bilateral_filter_weight: float
    def __init__(
        self,
        *,
        compatibility_mode: int | str | None = ...,
        threshold: float | None = ...,
        theta_alpha: float | None = ...,
        theta_beta: float | None = ...,
        theta_gamma: float | None = ...,
        num_iterations: int | None = ...,
        spatial_filter_weight: float | None = ...,
        bilateral_filter_weight: float | None = ...,
        forced_spatial_filter_weight: float | None = ...,
        forced_bilateral_filter_weight: float | None = ...,
    ) -> None: ...

class DenseImageDataParameter(Message):
    source: str
    batch_size: int
    rand_skip: int
    shuffle: bool
    new_height: int
    new_width: int
    is_color: bool
    mean_file: str
    root_folder: str
    mirror: bool
    crop_width: int
    crop_height: int
    label_divide_factor: int
    def __init__(
        self,
        *,
        source: str | None = ...,
        batch_size: int | None = ...,
        rand_skip: int | None = ...,
        shuffle: bool | None = ...,
        new_height: int | None = ...,
        new_width: int | None = ...,
        is_color: bool | None = ...,
        mean_file: str | None = ...,
        root_folder: str | None = ...,
        mirror: bool | None = ...,
        crop_width: int | None = ...,
        crop_height: int | None = ...,
        label_divide_factor: int | None = ...,
    ) -> None: ...

class SoftmaxLossParameter(Message):
    weight_source: str
    @property
    def ignore_label(self) -> _Scalars[int]: ...
    def __init__(
        self,
        *,
        weight_source: str | None = ...,
        ignore_label: Iterable[int] | None = ...,
    ) -> None: ...

class ReLU6Parameter(Message):
    negative_slope: float
    def __init__(
        self,
        *,
        negative_slope: float | None = ...,
    ) -> None: ...

class ShuffleChannelParameter(Message):
    group: int
    def __init__(
        self,
        *,
        group: int | None = ...,
    ) -> None: ...

class PermuteParameter(Message):
    @property
    def order(self) -> _Scalars[int]: ...
    def __init__(
        self,
        *,
        order: Iterable[int] | None = ...,
    ) -> None: ...

class NormalizeParameter(Message):
    across_spatial: bool
    @property
    def scale_filler(self) -> FillerParameter: ...
    channel_shared: bool
    eps: float
    def __init__(
        self,
        *,
        across_spatial: bool | None = ...,
        scale_filler: FillerParameter | None = ...,
        channel_shared: bool | None = ...,
        eps: float | None = ...,
    ) -> None: ...

class HappynearNormalizeParameter(Message):
    normalize_type: str
    fix_gradient: bool
    bp_norm: bool
    def __init__(
        self,
        *,
        normalize_type: str | None = ...,
        fix_gradient: bool | None = ...,
        bp_norm: bool | None = ...,
    ) -> None: ...

class PriorBoxParameter(Message):
    CodeType: ClassVar[_Enum]
    CORNER: ClassVar[int]
    CENTER_SIZE: ClassVar[int]
    CORNER_SIZE: ClassVar[int]
    @property
    def min_size(self) -> _Scalars[float]: ...
    @property
    def max_size(self) -> _Scalars[float]: ...
    @property
    def aspect_ratio(self) -> _Scalars[float]: ...
    flip: bool
    clip: bool
    @property
    def variance(self) -> _Scalars[float]: ...
    img_size: int
    img_h: int
    img_w: int
    step: float
    step_h: float
    step_w: float
    offset: float
    def __init__(
        self,
        *,
        min_size: Iterable[float] | None = ...,
        max_size: Iterable[float] | None = ...,
        aspect_ratio: Iterable[float] | None = ...,
        flip: bool | None = ...,
        clip: bool | None = ...,
        variance: Iterable[float] | None = ...,
        img_size: int | None = ...,
        img_h: int | None = ...,
        img_w: int | None = ...,
        step: float | None = ...,
        step_h: float | None = ...,
        step_w: float | None = ...,
        offset: float | None = ...,
    ) -> None: ...

class NonMaximumSuppressionParameter(Message):
    nms_threshold: float
    top_k: int
    eta: float
    def __init__(
        self,
        *,
        nms_threshold: float | None = ...,
        top_k: int | None = ...,
        eta: float | None = ...,
    ) -> None: ...

class DetectionOutputParameter(Message):
    num_classes: int
    share_location: bool
    background_label_id: int
    @property
    def nms_param(self) -> NonMaximumSuppressionParameter: ...
    code_type: int
    keep_top_k: int
    variance_encoded_in_target: bool
    confidence_threshold: float
    def __init__(
        self,
        *,
        num_classes: int | None = ...,
        share_location: bool | None = ...,
        background_label_id: int | None = ...,
        nms_param: NonMaximumSuppressionParameter | None = ...,
        code_type: int | str | None = ...,
        keep_top_k: int | None = ...,
        variance_encoded_in_target: bool | None = ...,
        confidence_threshold: float | None = ...,
    ) -> None: ...

class ROIPoolingParameter(Message):
    pooled_h: int
    pooled_w: int
    spatial_scale: float
    def __init__(
        self,
        *,
        pooled_h: int | None = ...,
        pooled_w: int | None = ...,
        spatial_scale: float | None = ...,
    ) -> None: ...

class PSROIPoolingParameter(Message):
    spatial_scale: float
    output_dim: int
    group_size: int
    def __init__(
        self,
        *,
        spatial_scale: float | None = ...,
        output_dim: int | None = ...,
        group_size: int | None = ...,
    ) -> None: ...

class SmoothL1LossParameter(Message):
    sigma: float
    def __init__(
        self,
        *,
        sigma: float | None = ...,
    ) -> None: ...
