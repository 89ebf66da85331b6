"""MedMNIST: one ``.npz`` with ``{train,val,test}_images`` and ``_labels`` (Yang et al., Scientific Data 2023).

Images are (n, h, w), (n, h, w, 3) or (n, d, h, w); labels (n, 1) class numbers or (n, k) zeros and ones. The file
does not say what its classes are called; the official sets are known by their file's name, others get "0", "1", …
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import SPLITS, Case, Dataset, InputSpec, Ref, TaskName, Truth
from medmap.errors import DatasetError, LayoutError
from medmap.layouts.naming import positive_index
from medmap.read import Arrays, open_arrays
from medmap.results import Label, ScoreKind

SOURCE = "MedMNIST v2, Yang et al., Scientific Data 10:41 (2023)"
_ORGANS = ("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left",
           "lung-right", "pancreas", "spleen")  # fmt: skip
_ORGANS_3D = ("liver", "kidney-right", "kidney-left", "femur-right", "femur-left", "bladder", "heart", "lung-right",
              "lung-left", "spleen", "pancreas")  # fmt: skip
_SIDES = (("femur-left", "femur-right"), ("kidney-left", "kidney-right"), ("lung-left", "lung-right"))


@dataclass(frozen=True)
class Official:
    """What is known of an official set beside its arrays.

    Args:
        title: Its name as published.
        modality: DICOM modality code of the images (CID 29).
        classes: Names in index order.
        kind: ordinal where the classes are grades; None: as the labels say.
        positive: Index of the class that a binary score speaks of.
        mirror_pairs: Classes that a left-right flip swaps.
        licence: The owner's licence.
        md5: Checksum of the 28-pixel file; mandatory when it is fetched.
    """

    title: str
    modality: str
    classes: tuple[str, ...]
    md5: str
    kind: ScoreKind | None = None
    positive: int | None = None
    mirror_pairs: tuple[tuple[str, str], ...] = ()
    licence: str = "CC BY 4.0"


# Class names, licences and checksums as the authors publish them with the files.
OFFICIAL: dict[str, Official] = {
    "pathmnist": Official(
        "PathMNIST",
        "SM",
        ("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
         "cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
        "a8b06965200029087d5bd730944a56c1",
    ),
    "chestmnist": Official(
        "ChestMNIST",
        "DX",
        ("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax",
         "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
        "02c8a6516a18b556561a56cbdd36c4a8",
        kind="multilabel",
    ),
    "dermamnist": Official(
        "DermaMNIST",
        "DMS",
        ("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions",
         "dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions"),
        "0744692d530f8e62ec473284d019b0c7",
        licence="CC BY-NC 4.0",
    ),
    "octmnist": Official(
        "OCTMNIST",
        "OPT",
        ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
        "c68d92d5b585d8d81f7112f81e2d0842",
    ),
    "pneumoniamnist": Official(
        "PneumoniaMNIST", "DX", ("normal", "pneumonia"), "28209eda62fecd6e6a2d98b1501bb15f", positive=1
    ),
    "retinamnist": Official(
        "RetinaMNIST", "OP", ("0", "1", "2", "3", "4"), "bd4c0672f1bba3e3a89f0e4e876791e4", kind="ordinal"
    ),
    "breastmnist": Official(
        "BreastMNIST", "US", ("malignant", "normal, benign"), "750601b1f35ba3300ea97c75c52ff8f6", positive=0
    ),
    "bloodmnist": Official(
        "BloodMNIST",
        "SM",
        ("basophil", "eosinophil", "erythroblast",
         "immature granulocytes (myelocytes, metamyelocytes and promyelocytes)", "lymphocyte", "monocyte",
         "neutrophil", "platelet"),
        "7053d0359d879ad8a5505303e11de1dc",
    ),
    "tissuemnist": Official(
        "TissueMNIST",
        "SM",
        ("collecting duct, connecting tubule", "distal convoluted tubule", "glomerular endothelial cells",
         "interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule segments",
         "thick ascending limb"),
        "ebe78ee8b05294063de985d821c1c34b",
    ),
    "organamnist": Official(
        "OrganAMNIST", "CT", _ORGANS, "68e3f8846a6bd62f0c9bf841c0d9eacc", mirror_pairs=_SIDES
    ),
    "organcmnist": Official(
        "OrganCMNIST", "CT", _ORGANS, "b9ceb9546e10131b32923c5bbeaea2b1", mirror_pairs=_SIDES
    ),
    "organsmnist": Official(
        "OrganSMNIST", "CT", _ORGANS, "9ab87b696fb54e2a387ebe992d6ed5f1", mirror_pairs=_SIDES
    ),
    "organmnist3d": Official(
        "OrganMNIST3D", "CT", _ORGANS_3D, "a0c5a1ff56af4f155c46d46fbb45a2fe", mirror_pairs=_SIDES
    ),
    "nodulemnist3d": Official(
        "NoduleMNIST3D", "CT", ("benign", "malignant"), "8755a7e9e05a4d9ce80a24c3e7a256f3", positive=1
    ),
    "adrenalmnist3d": Official(
        "AdrenalMNIST3D", "CT", ("normal", "hyperplasia"), "bbd3c5a5576322bc4cdfea780653b1ce", positive=1
    ),
    "fracturemnist3d": Official(
        "FractureMNIST3D",
        "CT",
        ("buckle rib fracture", "nondisplaced rib fracture", "displaced rib fracture"),
        "6aa7b0143a6b42da40027a9dda61302f",
    ),
    "vesselmnist3d": Official(
        "VesselMNIST3D", "MR", ("vessel", "aneurysm"), "b41fd4f7e7e2feedddb201585ecafa1b", positive=1
    ),
    "synapsemnist3d": Official(
        "SynapseMNIST3D",
        "EM",
        ("inhibitory synapse", "excitatory synapse"),
        "1235b78a3cd6280881dd7850a78eadb6",
        positive=1,
    ),
}  # fmt: skip


def recognise_medmnist(path: Path) -> bool:
    """Whether ``path`` is an ``.npz`` file, or a folder with exactly one and no table beside it."""
    return _npz_of(path) is not None


def _npz_of(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix.lower() == ".npz" else None
    found = [p for p in path.iterdir() if p.suffix.lower() == ".npz" and not p.name.startswith(".")]
    return found[0] if len(found) == 1 else None


def open_medmnist(path: Path, task: TaskName | None = None) -> Dataset:
    """A MedMNIST file as a dataset; reads the labels, no image.

    Raises:
        LayoutError: Arrays that are not named as in MedMNIST, or images and labels of different number.
        DatasetError: Labels that are no classes.
    """
    file = _npz_of(path)
    if file is None:
        raise LayoutError(f"{path} is no MedMNIST file", expected="one .npz file")
    if task not in (None, "classify"):
        raise DatasetError("a MedMNIST file has labels for images, nothing else", got=task, expected="classify")
    arrays = open_arrays(file)
    present = [s for s in SPLITS if f"{s}_images" in arrays.members and arrays.member(f"{s}_images").shape[:1] != (0,)]
    labels = {s: _labels_of(arrays, s) for s in present}
    if not labels:
        raise LayoutError(
            f"{file} has no arrays of a MedMNIST file",
            got=", ".join(sorted(arrays.members)),
            expected="train_images, train_labels and so on",
        )
    official = OFFICIAL.get(re.sub(r"_\d+$", "", file.stem.lower()))
    return _dataset(file, labels, official)


def _labels_of(arrays: Arrays, split: str) -> NDArray[np.float64]:
    """(n, k) float64: class number (k = 1), or one column a label; NaN is unknown."""
    images, labels = arrays.member(f"{split}_images"), arrays.member(f"{split}_labels")
    if not labels.shape or len(labels.shape) > 2 or labels.shape[0] != images.shape[0]:
        raise LayoutError(
            f"{arrays.path}: {split}_images and {split}_labels do not belong together",
            got=f"{images.shape} and {labels.shape}",
            expected="one label row for each image",
        )
    if labels.dtype.kind not in "biuf":
        raise DatasetError(f"{arrays.path}: {split}_labels are no numbers", got=str(labels.dtype))
    table = np.asarray(arrays.array(f"{split}_labels"), dtype=np.float64)
    return table.reshape(len(table), -1)


def _dataset(file: Path, labels: Mapping[str, NDArray[np.float64]], official: Official | None) -> Dataset:
    widths = {table.shape[1] for table in labels.values()}
    if len(widths) != 1 or widths == {0}:
        raise LayoutError(f"{file}: the splits have different numbers of labels", got=sorted(widths))
    width = widths.pop()
    values = np.concatenate(list(labels.values()))
    kind, count = _kind(file, values, official)
    if official is not None and len(official.classes) != count:
        official = None  # called like an official set, but another one
    names = (
        official.classes if official else tuple(str(i) for i in range(count)) if kind != "regression" else ("value",)
    )
    positive = None
    if kind == "binary":
        positive = official.positive if official and official.positive is not None else positive_index(names)
    cases: list[Case] = []
    for split, table in labels.items():
        digits = len(str(len(table) - 1))
        for row, entry in enumerate(table):
            case = f"{split}_{row:0{digits}d}"
            ref = Ref(file.name, f"{split}_images/{row}")
            cases.append(Case(case, case, {"image": ref}, _truth(entry, kind, width), split))
    return Dataset(
        name=official.title if official else file.stem,
        task="classify",
        cases=tuple(cases),
        inputs={"image": InputSpec(official.modality if official else None)},
        labels=tuple(Label(name) for name in names),
        kind=kind,
        root=file.parent,
        positive=positive,
        mirror_pairs=official.mirror_pairs if official else (),
        licence=official.licence if official else None,
        source=SOURCE if official else None,
        patients_known=False,
    )


def _kind(file: Path, values: NDArray[np.float64], official: Official | None) -> tuple[ScoreKind, int]:
    known = values[~np.isnan(values)]
    if values.shape[1] > 1:
        if not np.isin(known, (0, 1)).all():
            raise DatasetError(
                f"{file}: several labels an image are 0, 1 or NaN (unknown)", got=np.unique(known)[:10].tolist()
            )
        return "multilabel", values.shape[1]
    if not known.size or not np.isfinite(known).all():
        raise DatasetError(f"{file} has labels that are no numbers", got="none known, or infinite")
    if (known != np.rint(known)).any():
        return "regression", 1
    if known.min() < 0 or known.max() > 10_000:
        raise DatasetError(
            f"{file} has class numbers out of range", got=[known.min(), known.max()], expected="0, 1, 2 …"
        )
    count = max(int(known.max()) + 1, 2)
    if official and official.kind == "ordinal":
        return "ordinal", max(count, len(official.classes))
    if official and count <= len(official.classes):  # the last classes may be absent from a part of an official set
        count = len(official.classes)
    return ("binary", 2) if count == 2 else ("multiclass", count)


def _truth(entry: NDArray[np.float64], kind: ScoreKind, width: int) -> Truth:
    if kind == "multilabel":
        return Truth() if np.isnan(entry).all() else Truth(annotated=True, values=tuple(entry.tolist()))
    value = float(entry[0])
    if np.isnan(value):
        return Truth()
    return Truth(annotated=True, values=(value,)) if kind == "regression" else Truth(annotated=True, label=int(value))
