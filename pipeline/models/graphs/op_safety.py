"""Which operations a graph from elsewhere may hold: an allow list of pure ones; whatever is not on it is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from typing import Protocol

from tensorflow.core.framework import attr_value_pb2, function_pb2, graph_pb2, node_def_pb2

from pipeline.compiled.tf_private import is_registered
from pipeline.errors import UnusableModel


def _names(*lines: str) -> frozenset[str]:
    return frozenset(name for line in lines for name in line.split())


# What inference graphs of vision networks are made of. Each takes tensors and gives tensors, and touches nothing else:
# no file, no machine, no Python, no state that outlives the run. Random numbers are state, but of the run alone.
ALLOWED: dict[str, frozenset[str]] = {
    "plumbing": _names(
        "Const HostConst Placeholder PlaceholderV2 PlaceholderWithDefault Identity IdentityN NoOp StopGradient PreventGradient",
        "CheckNumerics CheckNumericsV2 EnsureShape Assert Print PrintV2 Snapshot FakeParam ControlTrigger _Arg _Retval",
        "_ListToArray _ArrayToList",
    ),
    "control flow and functions": _names(
        "PartitionedCall StatefulPartitionedCall If StatelessIf While StatelessWhile Case StatelessCase For",
        "ToBool Switch RefSwitch Merge RefMerge Enter RefEnter Exit RefExit NextIteration RefNextIteration LoopCond",
        "StackV2 StackPushV2 StackPopV2 StackCloseV2",
    ),
    "lists of tensors": _names(
        "TensorArrayV3 TensorArrayReadV3 TensorArrayWriteV3 TensorArrayGatherV3 TensorArrayScatterV3 TensorArraySplitV3",
        "TensorArrayConcatV3 TensorArraySizeV3 TensorArrayGradV3 TensorArrayCloseV3 EmptyTensorList TensorListConcat",
        "TensorListConcatLists TensorListConcatV2 TensorListElementShape TensorListFromTensor TensorListGather",
        "TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack TensorListPushBackBatch TensorListReserve",
        "TensorListResize TensorListScatter TensorListScatterV2 TensorListScatterIntoExistingList TensorListSetItem",
        "TensorListSplit TensorListStack",
    ),
    "arrays": _names(
        "BatchToSpace BatchToSpaceND Bitcast BroadcastArgs BroadcastGradientArgs BroadcastTo Cast Concat ConcatOffset ConcatV2",
        "ConjugateTranspose Diag DiagPart DynamicPartition DynamicStitch ParallelDynamicStitch ParallelConcat ExpandDims Fill",
        "Gather GatherNd GatherV2 InvertPermutation LinSpace ListDiff MatrixBandPart MatrixDiag MatrixDiagPart MatrixDiagPartV2",
        "MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3 MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 MirrorPad MirrorPadGrad OneHot",
        "OnesLike Pack Pad PadV2 Range Rank Reshape Reverse ReverseSequence ReverseV2 Roll ScatterNd ScatterNdNonAliasingAdd",
        "Select SelectV2 Shape ShapeN Size Slice SpaceToBatch SpaceToBatchND Split SplitV Squeeze StridedSlice StridedSliceGrad",
        "TensorScatterAdd TensorScatterMax TensorScatterMin TensorScatterSub TensorScatterUpdate TensorStridedSliceUpdate Tile",
        "TileGrad Transpose Unique UniqueV2 UniqueWithCounts UniqueWithCountsV2 UnravelIndex Unpack Where ZerosLike Bucketize",
        "LowerBound UpperBound SparseToDense DataFormatDimMap DataFormatVecPermute XlaDynamicUpdateSlice",
    ),
    "arithmetic": _names(
        "Abs AccumulateNV2 Acos Acosh Add AddN AddV2 Angle ApproximateEqual Asin Asinh Atan Atan2 Atanh BitwiseAnd BitwiseOr",
        "BitwiseXor Ceil ClipByValue Complex ComplexAbs Conj Cos Cosh Cross Cumprod Cumsum CumulativeLogsumexp Digamma Div",
        "DivNoNan Equal Erf Erfc Erfinv Exp Expm1 Floor FloorDiv FloorMod Greater GreaterEqual Imag Inv Invert InvGrad IsFinite",
        "IsInf IsNan LeftShift Less LessEqual Lgamma Log Log1p LogicalAnd LogicalNot LogicalOr Maximum Minimum Mod Mul MulNoNan",
        "Ndtri Neg NextAfter NotEqual Polygamma Pow Real RealDiv Reciprocal ReciprocalGrad RightShift Rint Round Rsqrt RsqrtGrad",
        "Sigmoid SigmoidGrad Sign Sin Sinh Sqrt SqrtGrad Square SquaredDifference Sub Tan Tanh TanhGrad TruncateDiv TruncateMod",
        "Xdivy Xlog1py Xlogy Zeta Betainc Igamma Igammac PopulationCount Spence BesselI0 BesselI1 BesselI0e BesselI1e Dawsn",
        "Expint",
    ),
    "reductions": _names(
        "All Any ArgMax ArgMin Bincount DenseBincount EuclideanNorm HistogramFixedWidth Max Mean Min NthElement Prod SegmentMax",
        "SegmentMean SegmentMin SegmentProd SegmentSum Sum UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd",
        "UnsortedSegmentSum",
    ),
    "linear algebra": _names(
        "BatchMatMul BatchMatMulV2 BatchMatMulV3 Cholesky Eig Einsum MatMul MatrixDeterminant MatrixExponential MatrixInverse",
        "MatrixSolve MatrixSquareRoot MatrixTriangularSolve LogMatrixDeterminant Qr SelfAdjointEigV2 SparseMatMul Svd",
        "FFT FFT2D FFT3D IFFT IFFT2D IFFT3D RFFT RFFT2D RFFT3D IRFFT IRFFT2D IRFFT3D",
        "SparseTensorDenseMatMul TridiagonalMatMul TridiagonalSolve",
    ),
    "networks": _names(
        "ApproxTopK AvgPool AvgPool3D AvgPoolGrad BatchNormWithGlobalNormalization BiasAdd BiasAddGrad BiasAddV1 BlockLSTM",
        "BlockLSTMV2 Conv Conv2D Conv2DBackpropFilter Conv2DBackpropInput Conv2DBackpropInputV2 Conv3D Conv3DBackpropInput",
        "Conv3DBackpropInputV2 CTCBeamSearchDecoder CTCGreedyDecoder DepthToSpace DepthwiseConv2dNative",
        "DepthwiseConv2dNativeBackpropFilter DepthwiseConv2dNativeBackpropInput Dilation2D Elu EluGrad FractionalAvgPool",
        "FractionalMaxPool FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 FusedPadConv2D FusedResizeAndPadConv2D GRUBlockCell",
        "InTopK InTopKV2 IsotonicRegression L2Loss LeakyRelu LeakyReluGrad LogSoftmax LRN LRNGrad LSTMBlockCell MaxPool",
        "MaxPool3D MaxPoolGrad MaxPoolGradV2 MaxPoolV2 MaxPoolWithArgmax Relu Relu6 Relu6Grad ReluGrad Selu SeluGrad Softmax",
        "SoftmaxCrossEntropyWithLogits Softplus SoftplusGrad Softsign SoftsignGrad SpaceToDepth TopK TopKV2 _FusedBatchNormEx",
        "_FusedConv2D _FusedDepthwiseConv2dNative _FusedMatMul",
    ),
    "images": _names(
        "AdjustContrast AdjustContrastv2 AdjustHue AdjustSaturation CombinedNonMaxSuppression CropAndResize DrawBoundingBoxes",
        "DrawBoundingBoxesV2 ExtractGlimpse ExtractGlimpseV2 ExtractImagePatches ExtractVolumePatches",
        "GenerateBoundingBoxProposals HSVToRGB ImageProjectiveTransformV2 ImageProjectiveTransformV3 NonMaxSuppression",
        "NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 NonMaxSuppressionWithOverlaps",
        "QuantizedResizeBilinear RandomCrop ResizeArea ResizeBicubic ResizeBicubicGrad ResizeBilinear ResizeBilinearGrad",
        "ResizeNearestNeighbor ResizeNearestNeighborGrad RGBToHSV SampleDistortedBoundingBox SampleDistortedBoundingBoxV2",
        "ScaleAndTranslate StatelessSampleDistortedBoundingBox",
    ),
    "encoded images and text, in memory": _names(
        "AsString DecodeAndCropJpeg DecodeBase64 DecodeBmp DecodeGif DecodeImage DecodeJpeg DecodePng DecodeRaw DecodePaddedRaw",
        "DecodeWebP EncodeBase64 ExtractJpegShape ParseExample ParseExampleV2 ParseSingleExample ReduceJoin StringFormat",
        "StringJoin StringLength StringLower StringStrip StringToNumber StringUpper Substr",
    ),
    "quantised numbers": _names(
        "Dequantize FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel QuantizeAndDequantize",
        "QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 QuantizeDownAndShrinkRange QuantizeV2",
        "QuantizedAdd QuantizedAvgPool QuantizedBatchNormWithGlobalNormalization QuantizedBiasAdd QuantizedConcat",
        "QuantizedConcatV2 QuantizedConv2D QuantizedInstanceNorm QuantizedMatMul QuantizedMaxPool QuantizedMul QuantizedRelu",
        "QuantizedRelu6 QuantizedReluX QuantizedReshape Requantize RequantizationRange",
    ),
    "random numbers": _names(
        "Multinomial ParameterizedTruncatedNormal RandomGamma RandomPoissonV2 RandomShuffle RandomStandardNormal RandomUniform",
        "RandomUniformInt StatelessMultinomial StatelessRandomGetAlg StatelessRandomGetKeyCounter",
        "StatelessRandomGetKeyCounterAlg",
        "StatelessRandomNormal StatelessRandomNormalV2 StatelessRandomUniform StatelessRandomUniformFullInt",
        "StatelessRandomUniformFullIntV2 StatelessRandomUniformInt StatelessRandomUniformIntV2 StatelessRandomUniformV2",
        "StatelessShuffle StatelessTruncatedNormal StatelessTruncatedNormalV2 TruncatedNormal RandomIndexShuffle",
    ),
}

# Variables: a frozen graph has none, and says so in words of its own; a SavedModel's are made constants.
VARIABLES = _names(
    "VarHandleOp ReadVariableOp Variable VariableV2 VarIsInitializedOp IsVariableInitialized ResourceGather ResourceGatherNd",
    "Assign AssignVariableOp DisableCopyOnRead",
)

# Those that `model.allow` cannot name: globs over operation types, and what such operations do.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "writes files": (
        *("Write*", "Save*", "Merge*Checkpoint*", "*SummaryWriter*", "*SummaryFileWriter*", "*SummaryDbWriter*", "Debug*"),
        *("Dump*", "*StatisticsSaver", "*DeleteOldDirs*", "ImportEvent"),
    ),
    "reads files": (
        *("ReadFile", "MatchingFiles", "*Reader", "*ReaderV2", "Reader*", "RecordInput", "ImmutableConst", "*DecodeProto*"),
        *("Restore*", "*Restore*", "*Checkpoint*", "LoadAndRemapMatrix", "GenerateVocabRemapping", "*FromTextFile*"),
        *("*UnigramCandidateSampler", "EncodeProto", "Skipgram", "LoadTPU*", "LoadAll*"),
    ),
    "reads data of its own": ("*Dataset*", "*Iterator*"),
    "runs Python": ("*PyFunc*",),
    "runs programs of its own": (
        "XlaCustomCall*",
        "XlaCallModule",
        "XlaLaunch*",
        "_XlaCompile*",
        "_XlaRun",
        "XlaHostCompute*",
        "MlirPassthroughOp",
        "*TensorRT*",
        "*TRTEngine*",
    ),
    "reaches other machines": (
        *(
            "RemoteCall",
            "*Rpc*",
            "_Send",
            "_Recv",
            "Send",
            "Recv",
            "*HostSend",
            "*HostRecv",
            "_Host*",
            "Collective*",
            "BigQuery*",
        ),
        *("*Distribute*", "*TPU*", "*Tpu*", "*GRPC*", "*Worker*", "Nccl*", "*Infeed*", "*Outfeed*", "DTensor*"),
        *("XlaSend*", "XlaRecv*", "_Xla*Host*"),
    ),
    "changes the process": (
        "FileSystemSetConfiguration",
        "Configure*",
        "Shutdown*",
        "Abort",
        "*Sleep*",
        "RegisterDataset*",
        "*Delay*",
    ),
}

# What every SavedModel restores and saves itself with, where its `saver_def` says so; never run, and only read.
_SAVING = _names("RestoreV2 SaveV2 MergeV2Checkpoints ShardedFilename")
_INITIALISING = _names("HashTableV2 LookupTableFindV2")  # tables of labels beside a network: harmless while nothing runs them

# Attributes whose values name files, machines or devices: refused on any operation, whatever else it does.
_REACHING = _names(
    "filename file_pattern file_name path tensor_name_file vocab_file vocab_filename descriptor_source debug_urls",
    "memory_region_name target address host output_stream server_address master directory tensor_debug_dir",
)
_HARMLESS_STREAMS = (b"stdout", b"stderr", b"log(info)", b"log(warning)", b"log(error)")

ALL_ALLOWED: frozenset[str] = frozenset().union(*ALLOWED.values())

# What constants may be computed with while a graph is read: no state, no loops, no calls.
COMPUTABLE: frozenset[str] = frozenset().union(
    _names("Const HostConst Identity IdentityN Snapshot StopGradient PreventGradient EnsureShape"),
    *(ALLOWED[group] for group in ("arrays", "arithmetic", "reductions", "linear algebra", "networks", "quantised numbers")),
)


class HasNodes(Protocol):
    """A graph, as TensorFlow or as `Operations` holds it: its operations, and its functions."""

    @property
    def node(self) -> Iterable[node_def_pb2.NodeDef]: ...

    @property
    def library(self) -> function_pb2.FunctionDefLibrary: ...


def check_operations(graph: HasNodes, where: str, allow: Collection[str] = ()) -> None:
    """Refuse a graph that is about to run for an operation that is not known to be pure, functions included.

    Args:
        where: what errors call the graph.
        allow: further types that the user vouches for (`model.allow`); those in FORBIDDEN stay refused.

    Raises: UnusableModel, naming the operation.
    """
    functions = {function.signature.name for function in graph.library.function}
    _refuse(graph, where, lambda node: judge(node, functions, allow))


def check_harmless(graph: HasNodes, where: str) -> None:
    """Refuse a graph for an operation in FORBIDDEN, wherever it stands; nothing of the graph is run.

    What is neither forbidden nor known to be pure may stand in what is cut away, such as a queue before the images.

    Raises: UnusableModel, naming the operation.
    """
    _refuse(graph, where, _forbidden)


def _refuse(graph: HasNodes, where: str, judged: Callable[[node_def_pb2.NodeDef], str | None]) -> None:
    for node in nodes_of(graph):
        problem = judged(node)
        if problem:
            raise UnusableModel(f"{where} holds the operation {_named(node)}, {problem}")


def check_unused(graph: graph_pb2.GraphDef, where: str, saver_nodes: Collection[str], saver_functions: Collection[str]) -> None:
    """Refuse a SavedModel for what it holds beside the part that will run: it is never run, but it says what the file is for.

    Only what is in FORBIDDEN is refused here; and what restores and saves files is not, where `saver_def` names it.

    Raises: UnusableModel, naming the operation.
    """
    for owner, nodes in [
        ("", graph.node),
        *((function.signature.name, function.node_def) for function in graph.library.function),
    ]:
        for node in nodes:
            saves = (owner in saver_functions) if owner else (node.name in saver_nodes)
            if (saves and node.op in _SAVING) or node.op in _INITIALISING:
                continue
            problem = _forbidden(node)
            if problem:
                raise UnusableModel(f"{where} holds the operation {_named(node)}, {problem}")


def judge(node: node_def_pb2.NodeDef, functions: Collection[str] = (), allow: Collection[str] = ()) -> str | None:
    """What is wrong with a node and what to do about it, as the end of a sentence; None where it may run.

    Args:
        functions: the names of the graph's own functions, which nodes may call as their type.
        allow: as for `check_operations`.
    """
    problem = _forbidden(node)
    if problem:
        return problem
    if node.op in functions or node.op in ALL_ALLOWED or node.op in VARIABLES:
        return None
    if not is_registered(node.op):
        return "which this TensorFlow does not have: a custom operation. Freeze the network without it."
    if node.op in allow:
        return None
    return (
        "which is not known to be harmless. Freeze the network without it; or, if you trust the file, "
        f'allow it in the spec: model.allow = ["{node.op}"].'
    )


def _named(node: node_def_pb2.NodeDef) -> str:
    kind = node.op[:100] if is_registered(node.op) else repr(node.op[:100])
    return f"{node.name[:200]!r} of type {kind}"


@cache
def _deed(kind: str) -> str | None:
    """What is forbidden about a type of operation; None if nothing is."""
    return next((deed for deed, globs in FORBIDDEN.items() if any(fnmatchcase(kind, glob) for glob in globs)), None)


def _forbidden(node: node_def_pb2.NodeDef) -> str | None:
    deed = _deed(node.op)
    if deed:
        return f"which {deed}. Such graphs are never run: freeze the network alone, without it."
    return _forbidden_attribute(node.attr)


def _forbidden_attribute(attributes: Mapping[str, attr_value_pb2.AttrValue]) -> str | None:
    for name, value in attributes.items():
        harmless = name == "output_stream" and value.s in _HARMLESS_STREAMS
        if name in _REACHING and (value.s or any(value.list.s)) and not harmless:
            return f"whose attribute {name!r} names a file or an address. Such graphs are never run."
        if value.placeholder:
            return f"whose attribute {name!r} is set by what calls its function. Such graphs are never run."
        for function in (value.func, *value.list.func):
            problem = _forbidden_attribute(function.attr)
            if problem:
                return problem
    return None


def nodes_of(graph: HasNodes) -> Iterator[node_def_pb2.NodeDef]:
    """Every node of a graph, and of every function of its library."""
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def
