"""What a model file may ask Keras for: the classes and functions that compute, and nothing that reads, writes or runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import keras

from pipeline.errors import UnusableModel
from pipeline.models.keras.model_file import clipped

# Left out on purpose: Lambda (code), TFSMLayer, TorchModuleWrapper, JaxLayer and FlaxLayer (other formats), the lookups and
# TextVectorization (vocabularies from files and addresses), and base classes.
_LAYERS = """
    Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveMaxPooling1D
    AdaptiveMaxPooling2D Add AdditiveAttention AlphaDropout Attention AugMix AutoContrast Average AveragePooling1D
    AveragePooling2D AveragePooling3D AvgPool1D AvgPool2D AvgPool3D BatchNormalization Bidirectional CategoryEncoding
    CenterCrop Concatenate Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D
    ConvLSTM3D Convolution1D Convolution1DTranspose Convolution2D Convolution2DTranspose Convolution3D Convolution3DTranspose
    Cropping1D Cropping2D Cropping3D CutMix Dense DepthwiseConv1D DepthwiseConv2D Discretization Dot Dropout ELU EinsumDense
    Embedding Equalization Flatten GRU GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
    GlobalAveragePooling3D GlobalAvgPool1D GlobalAvgPool2D GlobalAvgPool3D GlobalMaxPool1D GlobalMaxPool2D GlobalMaxPool3D
    GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization GroupQueryAttention Identity InputLayer LSTM
    LSTMCell LayerNormalization LeakyReLU Masking MaxPool1D MaxPool2D MaxPool3D MaxPooling1D MaxPooling2D MaxPooling3D Maximum
    MelSpectrogram Minimum MixUp MultiHeadAttention Multiply Normalization PReLU Permute RMSNormalization RNN RandAugment
    RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop RandomElasticTransform RandomErasing
    RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation
    RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom ReLU RepeatVector Rescaling Reshape Resizing
    STFTSpectrogram SeparableConv1D SeparableConv2D SeparableConvolution1D SeparableConvolution2D SimpleRNN SimpleRNNCell
    Softmax Solarization SpatialDropout1D SpatialDropout2D SpatialDropout3D SpectralNormalization StackedRNNCells Subtract
    TimeDistributed UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
"""
LAYERS = frozenset(_LAYERS.split())
MODELS = frozenset({"Functional", "Model", "Sequential"})
# The layers that keras.applications defines for itself, by the module that Keras names in its files.
APPLICATIONS = {
    "CustomScaleLayer": "keras.src.applications.inception_resnet_v2",
    "LayerScale": "keras.src.applications.convnext",
    "StochasticDepth": "keras.src.applications.convnext",
}

# The operations of keras.ops, by the module that Keras names in its files. Left out are those that take functions, that make
# arrays of a size of their own choosing, or that loop as often as a file says; losses; and random numbers.
_OPERATIONS = {
    "core": "Cast ConvertToTensor SaturateCast ScatterUpdate Slice SliceUpdate StopGradient Unstack",
    "image": """AffineTransform CropImages ExtractPatches GaussianBlur HSVToRGB MapCoordinates PadImages
    PerspectiveTransform RGBToGrayscale RGBToHSV Resize ScaleAndTranslate SobelEdges SSIM""",
    "linalg": "Cholesky CholeskyInverse Det Eig Eigh Inv Lstsq LuFactor MatrixRank Norm Pinv Qr Solve SolveTriangular SVD",
    "math": """CDist Erf Erfc Erfinv FFT FFT2 IFFT2 InTopK IRFFT Logdet Logsumexp RFFT Rsqrt SegmentMax SegmentMin
    SegmentProd SegmentSum TopK ViewAsComplex ViewAsReal""",
    "nn": """AdaptiveAveragePool AdaptiveMaxPool AveragePool BatchNorm Celu Conv ConvTranspose CTCDecode DepthToSpace
    DepthwiseConv DotProductAttention Elu Gelu Glu HardShrink HardSigmoid HardSilu HardTanh LayerNorm LeakyRelu LogSigmoid
    LogSoftmax MaxPool Moments MultiHot Normalize OneHot Polar PSNR RMSNorm Relu Relu6 Selu SeparableConv Sigmoid Silu
    SoftShrink Softmax Softplus Softsign SpaceToDepth SparsePlus SparseSigmoid Sparsemax Squareplus TanhShrink Threshold
    Unfold""",
    "numpy": """Abs Absolute Add All AllClose Amax Amin Angle Any Append Arccos Arccosh Arcsin Arcsinh Arctan Arctan2
    Arctanh Argmax Argmin Argpartition Argsort Average BitwiseAnd BitwiseInvert BitwiseLeftShift BitwiseNot BitwiseOr
    BitwiseRightShift BitwiseXor BroadcastTo Cbrt Ceil Clip Concatenate Conj Conjugate Copy Corrcoef Correlate Cos Cosh
    CountNonzero Cross Cumprod Cumsum Deg2rad Diag Diagflat Diagonal Digitize Divide DivideNoNan Dot Dsplit Dstack Einsum
    EmptyLike Equal Exp Exp2 ExpandDims Expm1 Fabs Flip Fliplr Flipud Floor FloorDivide Fmax Fmin Fmod FullLike Gcd
    GetItem Greater GreaterEqual Heaviside Hsplit Hstack Hypot I0 Imag Inner IsIn Isclose Isfinite Isinf Isnan Isneginf
    Isposinf Isreal Kron Lcm Ldexp LeftShift Less LessEqual Log Log10 Log1p Log2 Logaddexp Logaddexp2 LogicalAnd
    LogicalNot LogicalOr LogicalXor Matmul Max Maximum Mean Median Meshgrid Min Minimum Mod Moveaxis Multiply NanToNum
    Nanargmax Nanargmin Nancumprod Nancumsum Nanmax Nanmean Nanmedian Nanmin Nanpercentile Nanprod Nanquantile Nanstd
    Nansum Nanvar Negative Nextafter Nonzero NotEqual OnesLike Outer Pad Percentile Power Prod Ptp Quantile Rad2deg Ravel
    Real Reciprocal Repeat Reshape RightShift Roll Rot90 Round SearchSorted Select Sign Signbit Sin Sinc Sinh Slogdet Sort
    Split Sqrt Square Squeeze Stack Std Subtract Sum Swapaxes Take TakeAlongAxis Tan Tanh Tensordot Tile Trace Transpose
    Trapezoid Tril Triu TrueDivide Trunc Unique UnravelIndex Var Vdot View Vsplit Vstack Where ZerosLike""",
}
OPERATIONS = {name: f"keras.src.ops.{module}" for module, names in _OPERATIONS.items() for name in names.split()}

# What JSON has no type of its own for.
_VALUES = frozenset(
    {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__", "__tuple__", "TensorShape"}
)
_PARTS = ("initializers", "regularizers", "constraints", "dtype_policies")
_FUNCTION_MODULES = ("builtins", "keras.activations", "keras.ops", "keras.src.activations.activations")
_NOT_FUNCTIONS = {"get", "serialize", "deserialize"}


def judge(config: Any, path: str, custom: Collection[str], advice: str = "") -> None:
    """Refuse a model's description unless every class and function in it, however deep, computes and does nothing else.

    Args:
        config: in Keras 3's form.
        path: the file, for the errors.
        custom: names that the user's own code gives meaning to: these are allowed too.
        advice: what to do about a class that is nobody's, for the errors.

    Raises: UnusableModel.
    """
    lambdas = list(dict.fromkeys(_bytecode(config, "?")))
    if lambdas:
        more = f" and {len(lambdas) - 1} more" if len(lambdas) > 1 else ""
        raise UnusableModel(
            f"{path} carries Python code in its layer {clipped(lambdas[0])}{more}, which loading would run. "
            "If you trust the file, set model.trusted = true."
        )
    for layer, entry in _objects(config, "?"):
        if not _is_allowed(entry, custom):
            _refuse(path, layer, entry, advice)


def is_operation(entry: dict[str, Any]) -> bool:
    """Whether an entry that names no module is an operation: a layer of the same name keeps `trainable`."""
    inner = entry.get("config")
    return entry["class_name"] in OPERATIONS and isinstance(inner, dict) and "trainable" not in inner


def _is_allowed(entry: dict[str, Any], custom: Collection[str]) -> bool:
    name, module, registered = entry["class_name"], entry.get("module"), entry.get("registered_name")
    if not isinstance(name, str) or not isinstance(module, str | None) or not isinstance(registered, str | None):
        return False
    if name in _VALUES:
        return True
    if name == "function":
        function = entry.get("config")
        if not isinstance(function, str):
            return False
        by_keras = module in _FUNCTION_MODULES and registered in (None, function)
        return function in custom or (by_keras and _is_activation(function))
    if name in custom or registered in custom:
        return True
    if registered not in (None, name) or module is None:
        return False
    if name == "Lambda":  # carries no code, else it had been refused; its function is an entry of its own
        return isinstance(entry.get("config"), dict) and isinstance(entry["config"].get("function"), dict)
    if module == "keras.layers" or module.startswith("keras.src.layers."):
        return name in LAYERS
    if module.startswith("keras.src.applications."):
        return APPLICATIONS.get(name) == module
    if module.startswith("keras.src.ops."):
        return OPERATIONS.get(name) == module
    if module in ("keras", "keras.models") or module.startswith("keras.src.models."):
        return name in MODELS or (module == "keras" and _is_part("dtype_policies", name))
    return any(module == f"keras.{part}" or module.startswith(f"keras.src.{part}.") for part in _PARTS if _is_part(part, name))


def _is_activation(name: str) -> bool:
    return name not in _NOT_FUNCTIONS and not name.startswith("_") and callable(getattr(keras.activations, name, None))


def _is_part(part: str, name: str) -> bool:
    return isinstance(vars(getattr(keras, part)).get(name), type)


def _refuse(path: str, layer: str, entry: dict[str, Any], advice: str) -> None:
    name = entry.get("config") if entry["class_name"] == "function" else entry["class_name"]
    use = f"{path} uses {clipped(name)}"
    other = f"a class of the file's own, not Keras's {name}" if isinstance(name, str) and name in LAYERS else ""
    if isinstance(name, str) and not other and hasattr(keras.layers, name) and entry.get("registered_name") in (None, name):
        raise UnusableModel(
            f"{use} (layer {clipped(layer)}), which may read files or run code. If you trust the file, set model.trusted = true."
        )
    raise UnusableModel(
        f"{use}, {other or f'which is not part of Keras {keras.__version__}, or not of what a file may ask for'} "
        f"(layer {clipped(layer)}). "
        f'If it is yours, name the Python file that defines it: model.custom = "FILE.py".{advice and f" Else: {advice}."}'
    )


def _objects(config: Any, layer: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every class and function that a description names, with the layer that it belongs to."""
    if isinstance(config, list):
        for item in config:
            yield from _objects(item, layer)
    if not isinstance(config, dict):
        return
    if "class_name" in config:
        inner = config.get("config")
        layer = inner.get("name", layer) if isinstance(inner, dict) else layer
        yield layer, config
    for value in config.values():
        yield from _objects(value, layer)


def _bytecode(config: Any, layer: str) -> Iterator[str]:
    """The names of the layers that carry marshalled Python functions, in Keras 2's or Keras 3's form."""
    for name, entry in _objects(config, layer):
        inner = entry.get("config")
        if entry["class_name"] == "__lambda__":
            yield name
        elif entry["class_name"] == "Lambda" and isinstance(inner, dict):
            functions = {key: inner.get(key) for key in ("function", "output_shape", "mask")}
            if isinstance(functions["function"], list) or "lambda" in (inner.get(f"{key}_type") for key in functions):
                yield name
