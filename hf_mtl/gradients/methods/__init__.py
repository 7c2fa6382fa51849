"""The built-in gradient methods, one module each; importing this registers them."""

from . import (
    aligned_mtl,
    cagrad,
    dualproj,
    fairgrad,
    famo,
    gradvac,
    imtl_g,
    mgda,
    nash_mtl,
    pcgrad,
    pcgrad_reference,
    sum_and_mean,
    uncertainty,
    unit_weights,
    upgrad,
)

__all__ = [
    "aligned_mtl",
    "cagrad",
    "dualproj",
    "fairgrad",
    "famo",
    "gradvac",
    "imtl_g",
    "mgda",
    "nash_mtl",
    "pcgrad",
    "pcgrad_reference",
    "sum_and_mean",
    "uncertainty",
    "unit_weights",
    "upgrad",
]
