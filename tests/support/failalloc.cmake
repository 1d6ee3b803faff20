# e2ee_failalloc(TARGET): the calls of malloc, calloc, realloc and free in the target and in the layers that it links
# go through tests/support/failalloc.c. Shared libraries keep their own.
set(E2EE_SUPPORT_DIR ${CMAKE_CURRENT_LIST_DIR})
function(e2ee_failalloc target)
  if(NOT TARGET ${target})
    return()
  endif()
  target_sources(${target} PRIVATE ${E2EE_SUPPORT_DIR}/failalloc.c)
  target_include_directories(${target} PRIVATE ${E2EE_SUPPORT_DIR})
  foreach(symbol malloc calloc realloc free)
    target_link_options(${target} PRIVATE -Wl,--wrap=${symbol})
  endforeach()
endfunction()
