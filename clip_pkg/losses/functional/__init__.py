"""Losses as plain functions of tensors; each returns a scalar tensor.

float64 stays float64; half precision is computed in float32, also inside autocast.
"""

from clip_pkg.losses.functional.classification import (
    cross_entropy,
    focal,
    weighted_cross_entropy,
)
from clip_pkg.losses.functional.image_text import (
    class_text_clip,
    class_text_siglip,
    clip,
    multi_positive_clip,
    siglip,
)
from clip_pkg.losses.functional.labelled_contrast import (
    nt_xent_labels,
    supcon,
    supcon_mean_over_batch,
)
from clip_pkg.losses.functional.long_tail import adjusted_cross_entropy, ldam
from clip_pkg.losses.functional.margins import arcface, cosface
from clip_pkg.losses.functional.proxies import (
    center_half,
    center_mean,
    focal_proxy_anchor,
    proxy_anchor,
)
from clip_pkg.losses.functional.sampled import (
    PairStatistics,
    bce_pos_neg,
    class_text_bce,
    class_text_info_nce,
    info_nce_sampled_negatives,
    pair_statistics,
    sampled_softmax_collision_masked,
)
from clip_pkg.losses.functional.token_classification import (
    TokenTerms,
    superclip,
    token_classification,
)
from clip_pkg.losses.functional.triplets import triplet, triplet_explicit
from clip_pkg.losses.functional.two_views import (
    VicregTerms,
    dcl_oneway,
    dcl_symmetric,
    dclw_oneway,
    dclw_oneway_undetached,
    dclw_symmetric,
    dhel,
    info_nce,
    kcl_gaussian,
    nt_xent,
    vicreg,
    vicreg_terms,
)

__all__ = [
    "PairStatistics",
    "TokenTerms",
    "VicregTerms",
    "adjusted_cross_entropy",
    "arcface",
    "bce_pos_neg",
    "center_half",
    "center_mean",
    "class_text_bce",
    "class_text_clip",
    "class_text_info_nce",
    "class_text_siglip",
    "clip",
    "cosface",
    "cross_entropy",
    "dcl_oneway",
    "dcl_symmetric",
    "dclw_oneway",
    "dclw_oneway_undetached",
    "dclw_symmetric",
    "dhel",
    "focal",
    "focal_proxy_anchor",
    "info_nce",
    "info_nce_sampled_negatives",
    "kcl_gaussian",
    "ldam",
    "multi_positive_clip",
    "nt_xent",
    "nt_xent_labels",
    "pair_statistics",
    "proxy_anchor",
    "sampled_softmax_collision_masked",
    "siglip",
    "supcon",
    "supcon_mean_over_batch",
    "superclip",
    "token_classification",
    "triplet",
    "triplet_explicit",
    "vicreg",
    "vicreg_terms",
    "weighted_cross_entropy",
]
