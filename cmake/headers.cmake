# Headers that are precompiled, once for the modules that read JSON and once for the tests: a third
# of their compilation. Every file still includes what it uses; the fuzzers' build, by clang, has none
# of this.
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(HONE_PCH OFF)
endif()

set(hone_headers <algorithm> <filesystem> <functional> <map> <memory> <optional> <span> <string>
    <vector> <fmt/format.h> <nlohmann/json.hpp>)

# The first module here makes them for the others.
set(hone_headers_modules hone_models hone_text hone_data hone_io hone_rollout hone_train hone_plan
    hone_app)
function(hone_precompiled_headers target)
  if(NOT HONE_PCH OR NOT target IN_LIST hone_headers_modules)
    return()
  endif()
  if(target STREQUAL "hone_models")
    target_precompile_headers(hone_models PRIVATE ${hone_headers})
  else()
    target_precompile_headers(${target} REUSE_FROM hone_models)
  endif()
endfunction()
