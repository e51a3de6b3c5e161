# Instruction-set flags by file name: src/backend/cpu/**/x_<isa>.cpp. Such a file must not use inline functions shared with
# other files (the linker may keep its copy for everyone): it includes only POD headers and <immintrin.h>,
# and everything else in it lives in an anonymous namespace.
set(HONE_ISA_FLAGS_amx "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mfma -mamx-tile -mamx-bf16 -mavx2 -mf16c")
set(HONE_ISA_FLAGS_avx512bf16 "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mfma -mavx2 -mf16c")
set(HONE_ISA_FLAGS_avx512 "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mavx2 -mf16c")
set(HONE_ISA_FLAGS_avx2 "-mavx2 -mfma -mf16c")
foreach(isa amx avx512bf16 avx512 avx2)
  file(GLOB_RECURSE isa_sources CONFIGURE_DEPENDS src/backend/cpu/*_${isa}.cpp)
  foreach(source ${isa_sources})
    set_source_files_properties(${source} PROPERTIES COMPILE_FLAGS "-O3 ${HONE_ISA_FLAGS_${isa}}")
  endforeach()
endforeach()

# What is for one architecture: those files and *_x86.cpp, or *_other.cpp.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(HONE_OTHER_ARCHITECTURES "_other")
else()
  set(HONE_OTHER_ARCHITECTURES "_(x86|avx2|avx512|avx512bf16|amx)")
endif()
get_target_property(backend_sources hone_backend SOURCES)
list(FILTER backend_sources EXCLUDE REGEX "${HONE_OTHER_ARCHITECTURES}\\.cpp$")
set_target_properties(hone_backend PROPERTIES SOURCES "${backend_sources}")
