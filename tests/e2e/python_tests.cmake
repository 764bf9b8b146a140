# lockstep_python_tests(LABEL script.py…): each test method of the scripts becomes a CTest case `LABEL.script.method`.
#
# What CTest must know about a case stands behind its `def`:
#     def test_two_ranks_agree(self):  # ctest: processors=2 serial timeout=90
# processors: how many it keeps busy (default 1, also for ranks that end at once); waits: mostly none, since it waits for deadlines and the like; long: begins first; lock=NAME: no other
# case with this word may run meanwhile; serial: none at all; timeout: in seconds (default 120). Cases that keep more processors busy begin before the rest, and others fill the gaps.
#
# What CTest counts as a processor is half of one here, and launch/test gives out so many: a case that waits takes one half, others two, and those of N > 1 processors N + 1, since their
# processes start one after the other and wait for each other.
#
# A case that prints a line with "SKIPPED:" counts as skipped, not as passed.
#
# lockstep_python_tests(LABEL TOGETHER script.py…): the methods of a script that keep as many processors busy become one case,
# LABEL.script.on_N_processors, and one process: for scripts that import torch, which takes longer than most of their tests.
function(lockstep_python_tests label)
  cmake_parse_arguments(PARSE_ARGV 1 tests "TOGETHER" "" "")
  set(environment "LOCKSTEP=$<TARGET_FILE:lockstep-cli>;TEST_DATA=${TEST_DATA};TEST_PROGRAMS=${CMAKE_BINARY_DIR};PYTHONPATH=${PROJECT_SOURCE_DIR}/tests/e2e")
  foreach(script IN LISTS tests_UNPARSED_ARGUMENTS)
    set(groups "")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${script}")
    get_filename_component(module "${script}" NAME_WE)
    set(class "")
    file(STRINGS "${script}" lines REGEX "^(class |    def test_)")
    foreach(line IN LISTS lines)
      if(line MATCHES "^class ([A-Za-z0-9_]+)")
        set(class "${CMAKE_MATCH_1}")
        continue()
      endif()
      string(REGEX MATCH "def test_([a-z0-9_]+)" _ "${line}")
      set(method "${CMAKE_MATCH_1}")
      set(processors 1)
      set(timeout 120)
      set(serial OFF)
      set(waits OFF)
      set(cost 0)
      if(line MATCHES "ctest:.*processors=([0-9]+)")
        set(processors "${CMAKE_MATCH_1}")
      endif()
      if(line MATCHES "ctest:.*timeout=([0-9]+)")
        set(timeout "${CMAKE_MATCH_1}")
      endif()
      if(line MATCHES "ctest:.* serial")
        set(serial ON)
      endif()
      set(lock "")
      if(line MATCHES "ctest:.* lock=([a-z]+)")
        set(lock RESOURCE_LOCK "${CMAKE_MATCH_1}")
      endif()
      if(line MATCHES "ctest:.* waits")
        set(waits ON)
      endif()
      if(line MATCHES "ctest:.* long")
        set(cost 100)
      endif()
      math(EXPR cost "${cost} + ${processors}")
      math(EXPR halves "${processors} + 1")
      if(waits)
        set(halves 1)
      endif()
      if(tests_TOGETHER)
        list(APPEND groups ${processors})
        list(APPEND methods_${processors} "${class}.test_${method}")
        math(EXPR timeout_${processors} "${timeout_${processors}} + ${timeout}")
        continue()
      endif()
      set(name "${label}.${module}.${method}")
      add_test(NAME "${name}" COMMAND "${TEST_PYTHON}" -B "${script}" "${class}.test_${method}")
      set_tests_properties("${name}" PROPERTIES
        LABELS "${label}" PROCESSORS "${halves}" TIMEOUT "${timeout}" RUN_SERIAL "${serial}"
        COST "${cost}" SKIP_REGULAR_EXPRESSION "SKIPPED:" ${lock}
        ENVIRONMENT "${environment}")
    endforeach()
    list(REMOVE_DUPLICATES groups)
    foreach(processors IN LISTS groups)
      set(name "${label}.${module}.on_${processors}_processors")
      math(EXPR halves "${processors} + 1")
      add_test(NAME "${name}" COMMAND "${TEST_PYTHON}" -B "${script}" ${methods_${processors}})
      set_tests_properties("${name}" PROPERTIES
        LABELS "${label}" PROCESSORS "${halves}" TIMEOUT "${timeout_${processors}}" COST "1${processors}" ENVIRONMENT "${environment}")
      set(methods_${processors} "")
      set(timeout_${processors} 0)
    endforeach()
  endforeach()
endfunction()
