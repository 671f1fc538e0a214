"""The merging methods, a family a file. Importing this package registers them, in the order of this list."""

# isort: off
from . import (  # noqa: F401
    linear,
    stock,
    arithmetic,
    ties,
    dare,
    della,
    breadcrumbs,
    tsv,
    r_tsvm,
    sphere,
    selection,
    consensus,
    ram,
    pairwise,
    isotropic,
    knots,
    wudi,
)
# isort: on
