"""Azure's VM sizes: what each offers, from the public tables, and what a name alone says of one that is not there."""

import re
from dataclasses import replace
from typing import Dict, Iterator, Optional, Tuple

from runyard.protocol.record import record

#: No machine has more CPUs: a number above it is no count of them.
CPUS_MAX = 1_000
#: Standard_E16-4ds_v5 as Azure spells names: family, CPUs, those of them that are there, features, version.
_SHAPE = re.compile(
    r"(?P<tier>STANDARD|BASIC)_(?P<family>[A-Z]{1,2})(?P<cpus>[0-9]{1,3})(-(?P<here>[0-9]{1,3}))?"
    r"(?P<features>[A-Z]{0,6})(?P<card>_[A-Z]+[0-9]+[A-Z]?)?(?P<version>_V[0-9]{1,2})?"
)


@record
class VmSize:
    """What an Azure VM size offers. Source: the public tables of VM sizes."""

    name: str
    cpus: int
    memory_gib: float
    #: Whole cards; a part of one counts as one.
    gpus: int = 0
    #: It is not in the table: its CPUs are those of its name, the rest is usual for its family.
    is_guess: bool = False


def find_vm_size(name: str) -> Optional[VmSize]:
    """The size of that name in any case, with or without 'Standard_' and '_Promo'; None if it is no size's name.

    One that is not in the table is told from its name: ``is_guess``.
    """
    key = name.upper()
    if key.endswith("_PROMO"):
        key = key[: -len("_PROMO")]
    if not key.startswith(("STANDARD_", "BASIC_")):
        key = "STANDARD_" + key
    return _SIZES.get(key) or _from_name(key)


def list_vm_sizes() -> Tuple[VmSize, ...]:
    """Every size of the table, by name."""
    return tuple(_SIZES[name] for name in sorted(_SIZES))


def _from_name(key: str) -> Optional[VmSize]:
    found = _SHAPE.fullmatch(key)
    if found is None or found["family"] not in _FAMILIES:
        return None
    cpus, here = int(found["cpus"]), int(found["here"] or found["cpus"])
    if not 1 <= here <= cpus <= CPUS_MAX:
        return None
    whole = _SIZES.get(key.replace("-" + found["here"], "", 1)) if found["here"] else None
    if whole is not None:
        # Such a size has the memory of the whole one, and fewer CPUs.
        return replace(whole, name=key, cpus=here)
    each, gpus = _FAMILIES[found["family"]]
    return VmSize(key, here, each * cpus, gpus, is_guess=True)


#: Of a family: usual memory, GiB a CPU, and GPUs.
_FAMILIES: Dict[str, Tuple[float, int]] = {
    "A": (2, 0), "B": (4, 0), "D": (4, 0), "DC": (4, 0), "DS": (4, 0), "E": (8, 0), "EC": (8, 0), "F": (2, 0),
    "FX": (21, 0), "G": (14, 0), "GS": (14, 0), "H": (7, 0), "HB": (4, 0), "HC": (8, 0), "HX": (8, 0), "L": (8, 0),
    "LS": (8, 0), "M": (16, 0), "NC": (9, 1), "ND": (16, 1), "NG": (3, 1), "NP": (16, 0), "NV": (9, 1),
}  # fmt: skip

#: CPUs of a series' sizes.
_TO_64, _TO_96 = (2, 4, 8, 16, 32, 48, 64), (2, 4, 8, 16, 32, 48, 64, 96)

#: Series whose memory grows with the CPUs: spellings with '#' for the CPUs, those there are, GiB of memory a CPU.
_SERIES: Tuple[Tuple[str, Tuple[int, ...], float], ...] = (
    ("D#_V3 D#S_V3 D#_V4 D#S_V4 D#D_V4 D#DS_V4", _TO_64, 4),
    ("D#A_V4 D#AS_V4 D#_V5 D#S_V5 D#D_V5 D#DS_V5 D#AS_V5 D#ADS_V5 D#S_V6 D#DS_V6 D#AS_V6 D#ADS_V6", _TO_96, 4),
    ("D#PS_V5 D#PDS_V5", _TO_64, 4),
    ("D#LS_V5 D#LDS_V5 D#LS_V6 D#LDS_V6 D#ALS_V6 D#ALDS_V6", _TO_96, 2),
    ("D#PLS_V5 D#PLDS_V5", _TO_64, 2),
    ("DC#AS_V5 DC#ADS_V5", _TO_96, 4),
    ("DC#S_V3 DC#DS_V3", (1, 2, 4, 8, 16, 24, 32, 48), 8),
    ("E#_V3 E#S_V3", (2, 4, 8, 16, 20, 32, 48), 8),
    ("E#_V4 E#S_V4 E#D_V4 E#DS_V4", (2, 4, 8, 16, 20, 32, 48), 8),
    ("E#A_V4 E#AS_V4 E#_V5 E#S_V5 E#D_V5 E#DS_V5 E#AS_V5 E#ADS_V5 E#S_V6 E#DS_V6 E#AS_V6 E#ADS_V6 EC#AS_V5 EC#ADS_V5",
     (2, 4, 8, 16, 20, 32, 48, 64), 8),
    ("E#PS_V5 E#PDS_V5", (2, 4, 8, 16, 20), 8),
    ("F# F#S", (1, 2, 4, 8, 16), 2),
    ("F#S_V2", (2, 4, 8, 16, 32, 48, 64, 72), 2),
    ("FX#MDS", (4, 12, 24, 36, 48), 21),
    ("L#S", (4, 8, 16, 32), 8),
    ("L#S_V2", (8, 16, 32, 48, 64, 80), 8),
    ("L#S_V3 L#AS_V3", (8, 16, 32, 48, 64, 80), 8),
    ("B#MS", (2, 4, 8, 12, 16, 20), 4),
    ("B#S_V2 B#AS_V2", (2, 4, 8, 16, 32), 4),
    ("B#LS_V2 B#ALS_V2", (2, 4, 8, 16, 32), 2),
    ("NP#S", (10, 20, 40), 16.8),
)  # fmt: skip

#: Sizes whose numbers follow no rule: name, CPUs, GiB of memory, GPUs.
_SINGLE: Tuple[Tuple[str, int, float, int], ...] = (
    ("A0", 1, 0.75, 0), ("A1", 1, 1.75, 0), ("A2", 2, 3.5, 0), ("A3", 4, 7, 0), ("A4", 8, 14, 0), ("A5", 2, 14, 0),
    ("A6", 4, 28, 0), ("A7", 8, 56, 0), ("A8", 8, 56, 0), ("A9", 16, 112, 0), ("A10", 8, 56, 0), ("A11", 16, 112, 0),
    ("A1_V2", 1, 2, 0), ("A2_V2", 2, 4, 0), ("A4_V2", 4, 8, 0), ("A8_V2", 8, 16, 0),
    ("A2M_V2", 2, 16, 0), ("A4M_V2", 4, 32, 0), ("A8M_V2", 8, 64, 0),
    ("B1LS", 1, 0.5, 0), ("B1S", 1, 1, 0), ("B1MS", 1, 2, 0), ("B2S", 2, 4, 0), ("B2TS_V2", 2, 1, 0),
    ("B2ATS_V2", 2, 1, 0),
    ("D1", 1, 3.5, 0), ("D2", 2, 7, 0), ("D3", 4, 14, 0), ("D4", 8, 28, 0),
    ("D11", 2, 14, 0), ("D12", 4, 28, 0), ("D13", 8, 56, 0), ("D14", 16, 112, 0),
    ("D1_V2", 1, 3.5, 0), ("D2_V2", 2, 7, 0), ("D3_V2", 4, 14, 0), ("D4_V2", 8, 28, 0), ("D5_V2", 16, 56, 0),
    ("D11_V2", 2, 14, 0), ("D12_V2", 4, 28, 0), ("D13_V2", 8, 56, 0), ("D14_V2", 16, 112, 0), ("D15_V2", 20, 140, 0),
    ("DS1", 1, 3.5, 0), ("DS2", 2, 7, 0), ("DS3", 4, 14, 0), ("DS4", 8, 28, 0),
    ("DS11", 2, 14, 0), ("DS12", 4, 28, 0), ("DS13", 8, 56, 0), ("DS14", 16, 112, 0),
    ("DS1_V2", 1, 3.5, 0), ("DS2_V2", 2, 7, 0), ("DS3_V2", 4, 14, 0), ("DS4_V2", 8, 28, 0), ("DS5_V2", 16, 56, 0),
    ("DS11_V2", 2, 14, 0), ("DS12_V2", 4, 28, 0), ("DS13_V2", 8, 56, 0), ("DS14_V2", 16, 112, 0),
    ("DS15_V2", 20, 140, 0),
    ("DC2S", 2, 8, 0), ("DC4S", 4, 16, 0), ("DC1S_V2", 1, 4, 0), ("DC2S_V2", 2, 8, 0), ("DC4S_V2", 4, 16, 0),
    ("DC8_V2", 8, 32, 0),
    ("E64_V3", 64, 432, 0), ("E64S_V3", 64, 432, 0), ("E64I_V3", 64, 432, 0), ("E64IS_V3", 64, 432, 0),
    ("E64_V4", 64, 504, 0), ("E64S_V4", 64, 504, 0), ("E64D_V4", 64, 504, 0), ("E64DS_V4", 64, 504, 0),
    ("E80IS_V4", 80, 504, 0), ("E80IDS_V4", 80, 504, 0), ("E32PS_V5", 32, 208, 0), ("E32PDS_V5", 32, 208, 0),
    ("E96A_V4", 96, 672, 0), ("E96AS_V4", 96, 672, 0), ("E96_V5", 96, 672, 0), ("E96S_V5", 96, 672, 0),
    ("E96D_V5", 96, 672, 0), ("E96DS_V5", 96, 672, 0), ("E96AS_V5", 96, 672, 0), ("E96ADS_V5", 96, 672, 0),
    ("EC96AS_V5", 96, 672, 0), ("EC96ADS_V5", 96, 672, 0),
    ("G1", 2, 28, 0), ("G2", 4, 56, 0), ("G3", 8, 112, 0), ("G4", 16, 224, 0), ("G5", 32, 448, 0),
    ("GS1", 2, 28, 0), ("GS2", 4, 56, 0), ("GS3", 8, 112, 0), ("GS4", 16, 224, 0), ("GS5", 32, 448, 0),
    ("H8", 8, 56, 0), ("H16", 16, 112, 0), ("H8M", 8, 112, 0), ("H16M", 16, 224, 0), ("H16R", 16, 112, 0),
    ("H16MR", 16, 224, 0), ("HB60RS", 60, 228, 0), ("HC44RS", 44, 352, 0), ("HB120RS_V2", 120, 456, 0),
    ("HB120RS_V3", 120, 448, 0), ("HB176RS_V4", 176, 768, 0), ("HX176RS", 176, 1408, 0),
    ("M8MS", 8, 218.75, 0), ("M16MS", 16, 437.5, 0), ("M32TS", 32, 192, 0), ("M32LS", 32, 256, 0),
    ("M32MS", 32, 875, 0), ("M64", 64, 1024, 0), ("M64S", 64, 1024, 0), ("M64LS", 64, 512, 0), ("M64M", 64, 1792, 0),
    ("M64MS", 64, 1792, 0), ("M128", 128, 2048, 0), ("M128S", 128, 2048, 0), ("M128M", 128, 3892, 0),
    ("M128MS", 128, 3892, 0), ("M208S_V2", 208, 2850, 0), ("M208MS_V2", 208, 5700, 0), ("M416S_V2", 416, 5700, 0),
    ("M416MS_V2", 416, 11400, 0),
    ("NC6", 6, 56, 1), ("NC12", 12, 112, 2), ("NC24", 24, 224, 4), ("NC24R", 24, 224, 4),
    ("NC6S_V2", 6, 112, 1), ("NC12S_V2", 12, 224, 2), ("NC24S_V2", 24, 448, 4), ("NC24RS_V2", 24, 448, 4),
    ("NC6S_V3", 6, 112, 1), ("NC12S_V3", 12, 224, 2), ("NC24S_V3", 24, 448, 4), ("NC24RS_V3", 24, 448, 4),
    ("NC4AS_T4_V3", 4, 28, 1), ("NC8AS_T4_V3", 8, 56, 1), ("NC16AS_T4_V3", 16, 110, 1), ("NC64AS_T4_V3", 64, 440, 4),
    ("NC24ADS_A100_V4", 24, 220, 1), ("NC48ADS_A100_V4", 48, 440, 2), ("NC96ADS_A100_V4", 96, 880, 4),
    ("NC40ADS_H100_V5", 40, 320, 1), ("NC80ADIS_H100_V5", 80, 640, 2),
    ("ND6S", 6, 112, 1), ("ND12S", 12, 224, 2), ("ND24S", 24, 448, 4), ("ND24RS", 24, 448, 4),
    ("ND40RS_V2", 40, 672, 8), ("ND96ASR_V4", 96, 900, 8), ("ND96AMSR_A100_V4", 96, 1900, 8),
    ("ND96ISR_H100_V5", 96, 1900, 8), ("ND96ISR_H200_V5", 96, 1850, 8), ("ND96ISR_MI300X_V5", 96, 1850, 8),
    ("NV6", 6, 56, 1), ("NV12", 12, 112, 2), ("NV24", 24, 224, 4), ("NV6S_V2", 6, 112, 1), ("NV12S_V2", 12, 224, 2),
    ("NV24S_V2", 24, 448, 4), ("NV12S_V3", 12, 112, 1), ("NV24S_V3", 24, 224, 2), ("NV48S_V3", 48, 448, 4),
    ("NV4AS_V4", 4, 14, 1), ("NV8AS_V4", 8, 28, 1), ("NV16AS_V4", 16, 56, 1), ("NV32AS_V4", 32, 112, 1),
    ("NV6ADS_A10_V5", 6, 55, 1), ("NV12ADS_A10_V5", 12, 110, 1), ("NV18ADS_A10_V5", 18, 220, 1),
    ("NV36ADS_A10_V5", 36, 440, 1), ("NV36ADMS_A10_V5", 36, 880, 1), ("NV72ADS_A10_V5", 72, 880, 2),
)  # fmt: skip

_BASIC = (("A0", 1, 0.75), ("A1", 1, 1.75), ("A2", 2, 3.5), ("A3", 4, 7.0), ("A4", 8, 14.0))


def _table() -> Iterator[VmSize]:
    for spellings, counts, each in _SERIES:
        for spelling in spellings.split():
            for cpus in counts:
                yield VmSize("STANDARD_" + spelling.replace("#", str(cpus)), cpus, each * cpus)
    for name, cpus, memory_gib, gpus in _SINGLE:
        yield VmSize("STANDARD_" + name, cpus, float(memory_gib), gpus)
    for name, cpus, memory_gib in _BASIC:
        yield VmSize("BASIC_" + name, cpus, memory_gib)


_SIZES: Dict[str, VmSize] = {one.name: one for one in _table()}
