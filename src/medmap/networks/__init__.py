"""The one door to the networks of torchvision, timm and MONAI, and medmap's own small ones.

`build` makes any of them for any number of channels, outputs and dimensions, with a stem for small images; `describe`
publishes the numbers its neighbours need; `load_weights` starts it from a file, a bundle or a hub; `stages`,
`set_frozen` and `parameter_groups` freeze, thaw and slow its layers. Nothing is fetched unless a hub's name is given.
"""

from medmap.networks.catalogue import names
from medmap.networks.construct import build, describe
from medmap.networks.detectors import places_per_map, priors, split_detector
from medmap.networks.layers import adapt_channels, adapt_first_layer
from medmap.networks.measure import count_parameters, flops
from medmap.networks.own import ConvolutionalNetwork, SmallResNet
from medmap.networks.slices import SliceWise
from medmap.networks.spec import NetworkInfo, NetworkSpec, SizeError
from medmap.networks.stages import feature_layer, parameter_groups, set_frozen, stage_parameters, stages
from medmap.networks.stems import stem_strides, vit_patch
from medmap.networks.unet import UNet, multiple_of, unet_strides
from medmap.networks.weight_files import read_weights
from medmap.networks.weights import TransferReport, load_weights

__all__ = [
    "ConvolutionalNetwork",
    "NetworkInfo",
    "NetworkSpec",
    "SizeError",
    "SliceWise",
    "SmallResNet",
    "TransferReport",
    "UNet",
    "adapt_channels",
    "adapt_first_layer",
    "build",
    "count_parameters",
    "describe",
    "feature_layer",
    "flops",
    "load_weights",
    "multiple_of",
    "names",
    "parameter_groups",
    "places_per_map",
    "priors",
    "read_weights",
    "set_frozen",
    "split_detector",
    "stage_parameters",
    "stages",
    "stem_strides",
    "unet_strides",
    "vit_patch",
]
