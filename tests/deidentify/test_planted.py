"""A patient planted where an inspector would look: every script, every encoding, every kind of object and of place."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from objects import BIRTH, CT, NAME, PATIENT_ID, ct_slice, file_of
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medmap.deidentify.actions import is_time
from medmap.deidentify.identity import Identity
from medmap.deidentify.instance import Made, made
from medmap.deidentify.profile import Profile
from medmap.deidentify.secrets import Key
from medmap.deidentify.texts import cleaned, folded

OPTIONS: dict[str, dict[str, list[str]]] = {
    "basic": {},
    "research": {"keep": ["dates-modified", "patient"], "clean": ["descriptors", "structured", "graphics"]},
    "much": {"keep": ["device", "institution", "safe-private", "patient"], "clean": ["descriptors", "structured"]},
}
ENCODINGS = (
    *("utf-8", "latin-1", "utf-16-le", "utf-16-be", "shift_jis", "euc_jp", "gb18030", "euc_kr", "iso8859-5"),
    *("iso8859-6", "iso8859-7", "iso8859-8", "cp1251", "koi8-r", "tis-620"),
)  # fmt: skip
NEEDLES = (
    "quixotely",
    "dulcinea",
    "zephyrine",
    "mrn-7741",
    "7741-xk",
    "acc99182736",
    "brontewick",
    BIRTH,
    "23.09.1948",
)
Build = Callable[[], Dataset]


def processed(content: bytes, **options: Any) -> tuple[Made, Dataset, bytes]:
    """What was made, read again, and all its bytes unpacked and in lower case."""
    result = made(io.BytesIO(content), Profile.of(**options), Key(bytes(range(32))))
    assert result is not None
    read = pydicom.dcmread(io.BytesIO(result.content))
    data = result.content
    if read.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1.99":
        start = 144 + int.from_bytes(data[140:144], "little")
        data = data[:start] + zlib.decompress(data[start:], -15)
    return result, read, data.lower()


def spelled(needle: str) -> Iterator[bytes]:
    """A word in every case and encoding, between the escapes of ISO 2022 too; a number as binary numbers hold it."""
    for word in {needle, needle.lower(), needle.upper(), needle.title()}:
        for encoding in ENCODINGS:
            data = word.encode(encoding, "ignore")
            if len(data) >= max(3, len(word)):
                yield data.lower()
        yield from (part.lower() for part in re.findall(rb"\x1b\$[B@](.+?)\x1b\(", word.encode("iso2022_jp", "ignore")))
    if needle.isdigit():
        for form in ("<L", ">L", "<d", ">d"):
            number = float(needle) if form[1] == "d" else int(needle)
            yield struct.pack(form, number).lower()


def standing(data: bytes, needles: tuple[str, ...]) -> list[str]:
    return [needle for needle in needles if any(form in data for form in spelled(needle))]


SCRIPTS = {
    "Greek, another case": ("ISO_IR 126", "Ξανθόπουλος^Ευγενία", "ΞΑΝΘΟΠΟΥΛΟΣ ευγενία", ("Ξανθοπουλος", "Ευγενία")),
    "Greek in UTF-8": ("ISO_IR 192", "ΞΑΝΘΟΠΟΥΛΟΣ^ΕΥΓΕΝΙΑ", "Ξανθόπουλος, Ευγενία", ("Ξανθόπουλος", "Ευγενία")),
    "Cyrillic": ("ISO_IR 144", "КУЗНЕЦОВА^ЛЮДМИЛА", "Кузнецова Людмила", ("Кузнецова", "Людмила")),
    "Japanese": (
        ["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "山田太郎様 やまだ yamada",
        ("山田", "太郎", "やまだ", "yamada"),
    ),
    "Japanese, half wide": (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎", "ﾔﾏﾀﾞﾀﾛｳ", ("ﾔﾏﾀﾞ", "ﾀﾛｳ")),
    "Korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", "홍길동씨", ("홍길동", "길동")),
    "Chinese": ("GB18030", "Wang^XiaoDong=王^小东", "王小东先生", ("王小东", "小东")),
    "Thai": ("ISO_IR 166", "ใจดี^สมชาย", "นายสมชายใจดี", ("สมชาย", "ใจดี")),
    "Hebrew": ("ISO_IR 138", "אברהמוביץ^שרה", "שרה אברהמוביץ", ("אברהמוביץ",)),
    "Arabic": ("ISO_IR 127", "عبدالرحمن^فاطمة", "فاطمة عبدالرحمن", ("عبدالرحمن", "فاطمة")),
    "Vietnamese": ("ISO_IR 192", "NGUYỄN^THỊ HƯƠNG", "Nguyễn Thị Hương, nguyen huong", ("nguyễn", "nguyen", "huong")),
    "a ligature and wide letters": (
        "ISO_IR 192", "Finneganson^Quixote", "ﬁnneganson Ｑｕｉｘｏｔｅ", ("ﬁnneganson", "ｑｕｉｘｏｔｅ")
    ),
    "apostrophes": ("ISO_IR 192", "O'Quixley^Mary-Ann", "O’Quixley MARYANN o`quixley", ("quixley", "maryann")),
    "a suffix": ("ISO_IR 100", "Quixotely^D^^^Farnsworth", "for Farnsworth", ("farnsworth",)),
    "all in the prefix": ("ISO_IR 100", "^^^Quixotely", "for Quixotely", ("quixotely",)),
}  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_name_in_any_script_goes_and_the_rest_stays(script: str, options: str) -> None:
    charset, name, text, needles = SCRIPTS[script]
    ds = ct_slice(SpecificCharacterSet=charset, PatientName=name, WindowCenterWidthExplanation=f"{text} lung")
    result, read, data = processed(file_of(ds), **OPTIONS[options])
    assert standing(data, needles) == []
    assert str(read.WindowCenterWidthExplanation).endswith("lung")
    assert result.residuals == ()


@pytest.mark.parametrize(("said", "truth"), [("ISO_IR 192", "ISO_IR 100"), ("ISO_IR 100", "          ")])
def test_a_name_goes_although_the_file_says_another_encoding(said: str, truth: str) -> None:
    ds = ct_slice(
        SpecificCharacterSet=said, PatientName="Lindström^Åsa", WindowCenterWidthExplanation="LINDSTRÖM åsa lung"
    )
    result, read, data = processed(file_of(ds).replace(said.encode(), truth.encode()))
    assert standing(data, ("lindström", "åsa")) == []
    assert (read.WindowCenterWidthExplanation, result.residuals) == ("lung", ())


@pytest.mark.parametrize(
    "text", ["検査 lung", "Λύση lung", "major vessel, junior scale", "сустав", "Ｃontrast", "naïve"]
)
def test_words_that_are_no_name_stay(text: str) -> None:
    name = "Yamada^Tarou^^Major^Junior=山田^太郎"
    ds = ct_slice(SpecificCharacterSet="ISO_IR 192", PatientName=name, WindowCenterWidthExplanation=text)
    assert processed(file_of(ds))[1].WindowCenterWidthExplanation == text


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=40))
def test_folding_knows_where_each_letter_came_from(text: str) -> None:
    letters, places = folded(text)
    assert len(letters) == len(places)
    assert places == sorted(places)
    assert all(0 <= place < len(text) for place in places)


@given(st.text(st.characters(min_codepoint=0x370, max_codepoint=0x3FF, categories=["L"]), min_size=4, max_size=12))
def test_a_greek_name_is_found_in_any_case(name: str) -> None:
    known = Identity()
    known.add_name(name)
    for written in (name, name.upper(), name.lower(), name.title()):
        assert folded(name)[0] not in folded(cleaned(f"lung {written}.", known))[0]


# -- places ------------------------------------------------------------------------------------------------------------


def item(**values: Any) -> Sequence:
    made_item = Dataset()
    for keyword, value in values.items():
        setattr(made_item, keyword, value)
    return Sequence([made_item])


def odd(ds: Dataset, *elements: tuple[int, str, Any]) -> Dataset:
    """Add elements whatever the standard says of them."""
    for tag, vr, value in elements:
        ds[tag] = DataElement(tag, vr, value, validation_mode=IGNORE)
    return ds


def without_pixels(sop_class: str, **values: Any) -> Dataset:
    gone = dict.fromkeys(
        ["PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
         "SamplesPerPixel", "PhotometricInterpretation"]
    )  # fmt: skip
    return ct_slice(SOPClassUID=sop_class, **gone, **values)


def node(value_type: str, name: str, **values: Any) -> Dataset:
    concept = item(CodeValue="121071", CodingSchemeDesignator="DCM", CodeMeaning=name)
    return item(RelationshipType="CONTAINS", ValueType=value_type, ConceptNameCodeSequence=concept, **values)[0]


def report_at_depth() -> Dataset:
    leaves = [
        node("TEXT", "Finding", TextValue="Nodule of Dulcinea QUIXOTELY, MRN-7741-XK, 23.09.1948, follow up"),
        node("PNAME", "Observer of Quixotely", PersonName="Brontewick^Osgood"),
        node("DATE", "Date", Date=BIRTH),
        node("DATETIME", "Date", DateTime=BIRTH + "101500"),
        node("CODE", "of Dulcinea", ConceptCodeSequence=item(
            CodeValue="1", CodingSchemeDesignator="99Q", CodeMeaning="Quixotely nodule")),
    ]  # fmt: skip
    for level in range(12):
        above = node("CONTAINER", f"level {level} Quixotely")
        above.ContentSequence, leaves = Sequence(leaves), [above]
    ds = without_pixels("1.2.840.10008.5.1.4.1.1.88.33", Modality="SR", ValueType="CONTAINER")
    ds.ContentSequence = Sequence(leaves)
    ds.ConceptNameCodeSequence = item(CodeValue="1", CodingSchemeDesignator="DCM", CodeMeaning="Report of Dulcinea")
    return ds


def waveform() -> Dataset:
    ds = without_pixels("1.2.840.10008.5.1.4.1.1.9.1.1", Modality="ECG")
    ds.WaveformSequence = item(
        WaveformOriginality="ORIGINAL", NumberOfWaveformChannels=1, NumberOfWaveformSamples=2, SamplingFrequency="500",
        MultiplexGroupLabel="Quixotely", WaveformBitsAllocated=16, WaveformSampleInterpretation="SS",
        ChannelDefinitionSequence=item(ChannelLabel="I Dulcinea", ChannelDerivationDescription="for Zephyrine"),
    )  # fmt: skip
    odd(ds.WaveformSequence[0], (0x54001010, "OW", b"\1\0\2\0"))
    ds.WaveformAnnotationSequence = item(UnformattedTextValue="ECG of Quixotely")
    return ds


def structure_set() -> Dataset:
    ds = without_pixels("1.2.840.10008.5.1.4.1.1.481.3", Modality="RTSTRUCT", StructureSetLabel="QUIXOTELY",
                        StructureSetName="Dulcinea", StructureSetDescription="Zephyrine plan")  # fmt: skip
    ds.StructureSetROISequence = item(
        ROINumber=1, ROIName="Quixotely lung", ROIDescription="Dulcinea", ROIGenerationDescription="Zephyrine"
    )
    ds.RTROIObservationsSequence = item(ROIObservationLabel="Quixotely", ROIInterpreter="Brontewick^O")
    return ds


def display() -> Dataset:
    ds = ct_slice(
        HangingProtocolName="QUIXOTELY", HangingProtocolDescription="of Dulcinea", ContentDescription="Dulcinea"
    )
    ds.StructuredDisplayTextBoxSequence = item(UnformattedTextValue="Quixotely", DisplaySetLabel="Dulcinea")
    ds.TextObjectSequence = item(UnformattedTextValue="Quixotely Dulcinea")
    ds.DisplaySetPresentationGroupDescription = "Zephyrine"
    return ds


def tables_and_icon() -> Dataset:
    ds = ct_slice()
    for keyword, text in (("ModalityLUTSequence", "Quixotely units"), ("VOILUTSequence", "lung Dulcinea")):
        setattr(ds, keyword, item(LUTExplanation=text, LUTDescriptor=[4, 0, 16], LUTData=b"12345678"))
    ds.IconImageSequence = item(Rows=4, Columns=4)
    odd(ds.IconImageSequence[0], (0x7FE00010, "OB", b"Quixotely Dulcin"))
    return ds


def frames() -> Dataset:
    ds = ct_slice(SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1", NumberOfFrames=1)
    content = item(
        FrameComments="Quixotely breathes", FrameLabel="Dulcinea", FrameReferenceDateTime=BIRTH + "101010",
        FrameAcquisitionDateTime=BIRTH + "101010", StackID="QUIXOTELY",
    )  # fmt: skip
    region = item(CodeValue="1", CodingSchemeDesignator="99", CodeMeaning="Zephyrine lung")
    ds.PerFrameFunctionalGroupsSequence = item(
        FrameContentSequence=content, FrameAnatomySequence=item(FrameLaterality="R", AnatomicRegionSequence=region)
    )
    return ds


def requests() -> Dataset:
    ds = ct_slice()
    ds.RequestAttributesSequence = item(
        RequestedProcedureID=PATIENT_ID, ScheduledProcedureStepID="Quixotely", AccessionNumber="ACC99182736",
        RequestedProcedureDescription="thorax Quixotely", ScheduledProcedureStepDescription="Dulcinea",
    )  # fmt: skip
    ds.ReferencedPatientSequence = item(ReferencedSOPInstanceUID=f"1.2.3.7741.{BIRTH}")
    ds.OtherPatientIDsSequence = item(PatientID=PATIENT_ID, TypeOfPatientID="TEXT")
    before = item(PatientName=NAME, PatientID=PATIENT_ID)
    ds.OriginalAttributesSequence = item(
        ModifyingSystem="Quixotely", SourceOfPreviousValues="Dulcinea", ModifiedAttributesSequence=before
    )
    return ds


def specimen() -> Dataset:
    ds = ct_slice(ContrastBolusAgent="Quixotely mix", ContainerIdentifier="QUIXOTELY")
    ds.SpecimenDescriptionSequence = item(
        SpecimenIdentifier=f"{PATIENT_ID} A", SpecimenShortDescription="of Quixotely",
        SpecimenDetailedDescription="Dulcinea skin", SpecimenUID="1.2.3",
    )  # fmt: skip
    return ds


def letter() -> Dataset:
    ds = without_pixels(
        "1.2.840.10008.5.1.4.1.1.104.2", Modality="DOC", DocumentTitle="Letter Quixotely",
        EncapsulatedDocument=b"<ClinicalDocument>Quixotely</ClinicalDocument>", HL7InstanceIdentifier="1.2.3^Quixotely",
    )  # fmt: skip
    ds.ConceptNameCodeSequence = item(CodeValue="1", CodingSchemeDesignator="LN", CodeMeaning="Letter on Dulcinea")
    return ds


def privately() -> Dataset:
    ds = ct_slice()
    block = ds.private_block(0x0029, "QUIXOTELY 7741-XK", create=True)
    block.add_new(1, "UN", b"MRN-7741-XK Quixotely ")
    block.add_new(2, "SQ", item(PatientName=NAME))
    ds.DerivationCodeSequence = item(CodeValue="1", CodingSchemeDesignator="99X", CodeMeaning="Lung")
    ds.DerivationCodeSequence[0].private_block(0x0029, "QUIXOTELY", create=True).add_new(1, "LO", "Quixotely")
    return ds


def identifiers() -> Dataset:
    return ct_slice(
        SeriesDescription="thorax MRN-7741-XK", StudyID="7741-XK", ProtocolName="lung MRN7741XK",
        ImageComments="acc99182736 <b>Quixotely</b>",
        WindowCenterWidthExplanation=["99182736 lung", "Dulcinea", "bone"],
    )  # fmt: skip


def addresses() -> Dataset:
    ds = ct_slice(RetrieveURL="http://x/Dulcinea%20Quixotely", StationName="DULCINEA")
    return odd(ds, (0x00080120, "UR", "http://pacs/Quixotely"), (0x0040E010, "UR", "http://pacs/Quixotely"))


def unknown_to_the_standard() -> Dataset:
    return odd(
        ct_slice(), (0x00080FF0, "LO", "Quixotely"), (0x77761010, "UN", b"Dulcinea"), (0xFFFCFFFC, "OB", b"Zephyrine ")
    )


def other_representations() -> Dataset:
    ds = ct_slice(PatientName=None, PatientID=None, WindowCenterWidthExplanation="lung of Quixotely MRN-7741-XK")
    return odd(ds, (0x00100010, "OB", b"Quixotely^Dulcinea"), (0x00100020, "OB", b"MRN-7741-XK "))


def a_sequence_as_bytes() -> Dataset:
    body = b"\xfe\xff\x00\xe0" + struct.pack("<L", 26) + b"\x10\x00\x10\x00PN\x12\x00Quixotely^Dulcinea"
    return odd(ct_slice(), (0x00081140, "OB", body))


def dates_elsewhere() -> Dataset:
    return odd(
        ct_slice(), (0x00080030, "TM", BIRTH), (0x00181012, "DA", "1948.09.23"), (0x00181030, "LO", "of 23/09/48"),
        (0x0008002A, "DT", BIRTH + "101500+0100"), (0x00181078, "DT", BIRTH + "101500"), (0x00189151, "DT", BIRTH),
    )  # fmt: skip


PLACES: list[Build] = [
    report_at_depth, waveform, structure_set, display, tables_and_icon, frames, requests, specimen, letter, privately,
    identifiers, addresses, unknown_to_the_standard, other_representations, a_sequence_as_bytes, dates_elsewhere,
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("build", PLACES, ids=[build.__name__ for build in PLACES])
def test_a_planted_patient_is_in_no_place(build: Build, options: str) -> None:
    result, _, data = processed(file_of(build()), **OPTIONS[options])
    assert result.residuals == ()
    assert standing(data, NEEDLES) == []


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"])
def test_a_planted_patient_is_in_no_transfer_syntax(syntax: str) -> None:
    ds = ct_slice(SeriesDescription="thorax Quixotely 23.09.1948", WindowCenterWidthExplanation="lung of MRN-7741-XK")
    ds["PixelData"].VR = "OW"
    result, read, data = processed(file_of(ds, syntax))
    assert result.residuals == ()
    assert standing(data, NEEDLES) == []
    assert (read.SOPClassUID, read.WindowCenterWidthExplanation) == (CT, "lung of")


def test_a_private_sequence_of_unknown_representation_goes() -> None:
    content = file_of(ct_slice())
    items = b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x10\x00\x10\x00\x0a\0\0\0Quixotely \xfe\xff\x0d\xe0\0\0\0\0"
    element = b"\x21\x00\x01\x10UN\0\0\xff\xff\xff\xff" + items + b"\xfe\xff\xdd\xe0\0\0\0\0"
    at = content.index(b"\x28\x00\x02\x00US")
    content = content[:at] + b"\x21\x00\x10\x00LO\x04\x00ABCD" + element + content[at:]
    assert standing(processed(content)[2], NEEDLES) == []


@pytest.mark.parametrize(
    ("element", "kind"),
    [
        ((0x00081161, "UL", [int(BIRTH)]), "date"),  # Simple Frame List
        ((0x00189073, "FD", float(BIRTH)), "date"),
        ((0x00200011, "IS", BIRTH), "date"),
        ((0x00281050, "DS", BIRTH), "date"),
        ((0x00185100, "CS", "QUIXOTELY"), "name"),
        ((0x00700080, "CS", "DULCINEA"), "name"),
        ((0x00282000, "OB", b"profile of Quixotely"), "name"),
        ((0x00281201, "OW", b"Dulcinea"), "name"),
        ((0x00281055, "LO", "Quixotely!".encode("utf-16-le").decode("latin-1")), "name"),
    ],
)
def test_what_is_no_text_and_says_who_it_is_is_reported(element: tuple[int, str, Any], kind: str) -> None:
    result, _, _ = processed(file_of(odd(ct_slice(), element)))
    assert [(left.place, left.kind) for left in result.residuals] == [(f"{element[0]:08X}", kind)]


def test_a_date_in_the_place_of_a_time_goes_with_modified_dates_and_is_reported_with_kept_ones() -> None:
    content = file_of(odd(ct_slice(), (0x00080030, "TM", BIRTH)))
    result, _, data = processed(content, keep=["dates-modified"])
    assert result.residuals == ()
    assert BIRTH.encode() not in data
    result, _, _ = processed(content, keep=["dates"])
    assert [(left.place, left.kind) for left in result.residuals] == [("00080030", "date")]


@given(st.times())
def test_times_of_day_are_times(time: Any) -> None:
    for form in ("%H", "%H%M", "%H%M%S", "%H%M%S.%f", "%H:%M:%S"):
        assert is_time(time.strftime(form))
