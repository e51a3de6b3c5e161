# Headers that are precompiled, once for the modules that read JSON and once for the tests: a third
# of their compilation. Every file still includes what it uses; the fuzzers' build, by clang, has none
# of this.
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(HONE_PCH OFF)
endif()

set(hone_headers <algorithm> <filesystem> <functional> <map> <memory> <optional> <span> <string>
    <vector> <fmt/format.h> <nlohmann/json.hpp>)
set(hone_headers_modules hone_models hone_text hone_data hone_io hone_rollout hone_train hone_plan
    hone_app)

# A library of nothing but precompiled headers, so that who uses them depends on nothing else.
# Usage: hone_headers_library(name libraries headers...)
function(hone_headers_library name libraries)
  file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/${name}.cpp CONTENT "")
  add_library(${name} OBJECT ${CMAKE_CURRENT_BINARY_DIR}/${name}.cpp)
  # spdlog: its definitions are the modules' as well
  target_link_libraries(${name} PRIVATE fmt::fmt spdlog::spdlog ${libraries})
  target_precompile_headers(${name} PRIVATE ${ARGN})
endfunction()

if(HONE_PCH)
  hone_headers_library(headers_of_modules nlohmann_json::nlohmann_json ${hone_headers})
endif()

function(hone_precompiled_headers target)
  if(HONE_PCH AND target IN_LIST hone_headers_modules)
    target_precompile_headers(${target} REUSE_FROM headers_of_modules)
  endif()
endfunction()
