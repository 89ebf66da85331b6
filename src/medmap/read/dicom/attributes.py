"""The attributes that sorting a folder needs: their tags, and how their values are written in a file.

Tags and value representations are of PS3.6 (2024b); private ones are those that MR makers write the b-value to.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# How a value is turned into a plain one, whatever representation the file names:
#   s  text                        S  texts, separated by a backslash
#   f  decimal string → float      F  decimal strings → floats
#   i  integer string → int        u  unsigned 16 bits       U  several of them
#   d  float64                     D  several of them        e  float32
#   ?  true where the element is there and not empty
ATTRIBUTES: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "SpecificCharacterSet": (0x00080005, "S"),
        "ImageType": (0x00080008, "S"),
        "SOPClassUID": (0x00080016, "s"),
        "SOPInstanceUID": (0x00080018, "s"),
        "StudyDate": (0x00080020, "s"),
        "SeriesDate": (0x00080021, "s"),
        "AcquisitionDate": (0x00080022, "s"),
        "ContentDate": (0x00080023, "s"),
        "AcquisitionDateTime": (0x0008002A, "s"),
        "StudyTime": (0x00080030, "s"),
        "SeriesTime": (0x00080031, "s"),
        "AcquisitionTime": (0x00080032, "s"),
        "ContentTime": (0x00080033, "s"),
        "AccessionNumber": (0x00080050, "s"),
        "Modality": (0x00080060, "s"),
        "ConversionType": (0x00080064, "s"),
        "PresentationIntentType": (0x00080068, "s"),
        "Manufacturer": (0x00080070, "s"),
        "InstitutionName": (0x00080080, "s"),
        "StationName": (0x00081010, "s"),
        "StudyDescription": (0x00081030, "s"),
        "SeriesDescription": (0x0008103E, "s"),
        "ManufacturerModelName": (0x00081090, "s"),
        "PatientID": (0x00100020, "s"),
        "IssuerOfPatientID": (0x00100021, "s"),
        "PatientSex": (0x00100040, "s"),
        "PatientAge": (0x00101010, "s"),
        "PatientWeight": (0x00101030, "f"),
        "ContrastBolusAgent": (0x00180010, "s"),
        "ContrastBolusAgentSequence": (0x00180012, "?"),
        "BodyPartExamined": (0x00180015, "s"),
        "ScanningSequence": (0x00180020, "S"),
        "SequenceVariant": (0x00180021, "S"),
        "ScanOptions": (0x00180022, "S"),
        "MRAcquisitionType": (0x00180023, "s"),
        "SequenceName": (0x00180024, "s"),
        "CineRate": (0x00180040, "i"),
        "SliceThickness": (0x00180050, "f"),
        "KVP": (0x00180060, "f"),
        "RepetitionTime": (0x00180080, "f"),
        "EchoTime": (0x00180081, "f"),
        "InversionTime": (0x00180082, "f"),
        "EchoNumbers": (0x00180086, "i"),
        "MagneticFieldStrength": (0x00180087, "f"),
        "SpacingBetweenSlices": (0x00180088, "f"),
        "ProtocolName": (0x00181030, "s"),
        "TriggerTime": (0x00181060, "f"),
        "FrameTime": (0x00181063, "f"),
        "FrameTimeVector": (0x00181065, "F"),
        "GantryDetectorTilt": (0x00181120, "f"),
        "ImagerPixelSpacing": (0x00181164, "F"),
        "ConvolutionKernel": (0x00181210, "S"),
        "ActualFrameDuration": (0x00181242, "i"),
        "FlipAngle": (0x00181314, "f"),
        "PatientPosition": (0x00185100, "s"),
        "ViewPosition": (0x00185101, "s"),
        "DiffusionDirectionality": (0x00189075, "s"),
        "DiffusionBValue": (0x00189087, "d"),
        "DiffusionGradientOrientation": (0x00189089, "D"),
        "StudyInstanceUID": (0x0020000D, "s"),
        "SeriesInstanceUID": (0x0020000E, "s"),
        "StudyID": (0x00200010, "s"),
        "SeriesNumber": (0x00200011, "i"),
        "AcquisitionNumber": (0x00200012, "i"),
        "InstanceNumber": (0x00200013, "i"),
        "ImagePositionPatient": (0x00200032, "F"),
        "ImageOrientationPatient": (0x00200037, "F"),
        "FrameOfReferenceUID": (0x00200052, "s"),
        "Laterality": (0x00200060, "s"),
        "TemporalPositionIdentifier": (0x00200100, "i"),
        "NumberOfTemporalPositions": (0x00200105, "i"),
        "SliceLocation": (0x00201041, "f"),
        "SamplesPerPixel": (0x00280002, "u"),
        "PhotometricInterpretation": (0x00280004, "s"),
        "PlanarConfiguration": (0x00280006, "u"),
        "NumberOfFrames": (0x00280008, "i"),
        "Rows": (0x00280010, "u"),
        "Columns": (0x00280011, "u"),
        "PixelSpacing": (0x00280030, "F"),
        "BitsAllocated": (0x00280100, "u"),
        "BitsStored": (0x00280101, "u"),
        "HighBit": (0x00280102, "u"),
        "PixelRepresentation": (0x00280103, "u"),
        "PixelPaddingValue": (0x00280120, "u"),
        "PixelPaddingRangeLimit": (0x00280121, "u"),
        "BurnedInAnnotation": (0x00280301, "s"),
        "WindowCenter": (0x00281050, "F"),
        "WindowWidth": (0x00281051, "F"),
        "RescaleIntercept": (0x00281052, "f"),
        "RescaleSlope": (0x00281053, "f"),
        "RescaleType": (0x00281054, "s"),
        "ModalityLUTSequence": (0x00283000, "?"),
        "EnergyWindowVector": (0x00540010, "U"),
        "DetectorVector": (0x00540020, "U"),
        "PhaseVector": (0x00540030, "U"),
        "RotationVector": (0x00540050, "U"),
        "RRIntervalVector": (0x00540060, "U"),
        "TimeSlotVector": (0x00540070, "U"),
        "SliceVector": (0x00540080, "U"),
        "AngularViewVector": (0x00540090, "U"),
        "TimeSliceVector": (0x00540100, "U"),
        "NumberOfTimeSlices": (0x00540101, "u"),
        "Units": (0x00541001, "s"),
        "FrameReferenceTime": (0x00541300, "f"),
        "ImageIndex": (0x00541330, "u"),
        "SharedFunctionalGroupsSequence": (0x52009229, "?"),
        "PerFrameFunctionalGroupsSequence": (0x52009230, "?"),
    }
)

# private elements by a name of our own; the block's owner stands in the element before, and is compared
PRIVATE: Mapping[str, tuple[int, str, int, str]] = MappingProxyType(
    {
        # name: tag, kind, tag of the owner, owner
        "SiemensMosaicImages": (0x0019100A, "u", 0x00190010, "SIEMENS MR HEADER"),
        "SiemensBValue": (0x0019100C, "i", 0x00190010, "SIEMENS MR HEADER"),
        "PhilipsBValue": (0x20011003, "e", 0x20010010, "Philips Imaging DD 001"),
        "GEBValue": (0x00431039, "F", 0x00430010, "GEMS_PARM_01"),
        "UIHBValue": (0x00651009, "d", 0x00650010, "Image Private Header"),
    }
)
OWNERS: Mapping[str, int] = MappingProxyType({f"owner {row[2]:08x}": row[2] for row in PRIVATE.values()})

# What holds the pixels (PS3.3 C.7.6.3, C.7.6.24, C.7.6.25), in any of three types
PIXELS: Mapping[int, str] = MappingProxyType(
    {0x7FE00010: "PixelData", 0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData"}
)
