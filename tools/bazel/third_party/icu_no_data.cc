// An empty ICU data package, in place of the 31 MB of libicudata: the static libicuuc asks for one
// by this symbol. Normalisation to NFC and NFD and character properties need no data: ICU compiles
// their tables in. Anything else (NFKC, converters, break iterators, locales) answers
// U_FILE_ACCESS_ERROR. Format: icu4c/source/common/ucmndata.h, a data header before a table of
// contents, here empty.
#include <unicode/udata.h>
#include <unicode/utypes.h>

#include <cstddef>

namespace {

struct alignas(16) EmptyPackage {
  uint16_t header_bytes;
  uint8_t magic1;
  uint8_t magic2;
  UDataInfo info;
  uint8_t padding[8];
  uint32_t entry_count;
  uint32_t padding_after[3];
};

}  // namespace

extern "C" {
extern const EmptyPackage U_ICUDATA_ENTRY_POINT;
const EmptyPackage U_ICUDATA_ENTRY_POINT = {
    offsetof(EmptyPackage, entry_count),
    0xda,
    0x27,
    {sizeof(UDataInfo),
     0,
     U_IS_BIG_ENDIAN,
     U_CHARSET_FAMILY,
     U_SIZEOF_UCHAR,
     0,
     {'C', 'm', 'n', 'D'},
     {1, 0, 0, 0},
     {0, 0, 0, 0}},
    {},
    0,
    {},
};
}
