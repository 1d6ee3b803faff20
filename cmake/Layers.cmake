# e2ee_layer(NAME SOURCES … LAYERS … LIBS …)
# One static library per folder. Headers are visible only to the layers that name it, so that an include across a
# forbidden border does not compile. LAYERS and the include path are public: who may use a layer sees its contract
# and what that contract is written in, nothing else. LIBS (outside packages) stay private.
function(e2ee_layer name)
  cmake_parse_arguments(L "" "" "SOURCES;LAYERS;LIBS" ${ARGN})
  add_library(e2ee_${name} STATIC ${L_SOURCES})
  target_include_directories(e2ee_${name} PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
  foreach(layer ${L_LAYERS})
    target_link_libraries(e2ee_${name} PUBLIC e2ee_${layer})
  endforeach()
  target_link_libraries(e2ee_${name} PRIVATE ${L_LIBS})
endfunction()
