"""Which faults of the catalogue are made by which test.

The name of a test, or of a file of the corpus, says what the fault is. Of 106 in all: A file contents, B names and the
file system, C processes, disk and signals, D data and training, E checkpoints, stores and weights, F DVC and MLflow.
"""

import ast
from pathlib import Path

from tests.faults import damaged, good, unusable

ROOT = Path(__file__).parents[2]
ENTRIES = {"A": 46, "B": 14, "C": 12, "D": 12, "E": 10, "F": 12}
NUM_COVERED = 70

# The faults in files that `tests/faults` does not hold: the test that makes them.
CATALOGUE = {
    "A45": "end_to_end/test_decoding_processes.py::test_bar_4_a_thousand_mutants",
    "A46": "unit/test_edge_cases.py::test_the_verdict_on_an_edge_case",
    "B1": "stages/test_names.py::test_predict_answers_for_forty_hostile_names",
    "B2": "stages/test_names.py::test_check_names_forty_files_exactly",
    "B3": "unit/test_damaged_video.py::test_names_that_look_like_addresses",
    "B4": "end_to_end/test_bars.py::test_bar_8_files_that_name_other_files_or_addresses_are_not_followed",
    "B5": "stages/test_names.py::test_extract_keeps_forty_hostile_names_apart",
    "B6": "unit/test_discovery.py::test_folders_deeper_than_a_path_can_be",
    "B7": "unit/test_discovery.py::test_folders_that_link_to_each_other_are_entered_once",
    "B8": "unit/test_damaged_video.py::test_things_that_are_no_files",
    "B9": "unit/test_discovery.py::test_folders_and_files_without_permission",
    "B10": "unit/test_damaged_video.py::test_a_file_that_is_cut_or_removed_while_it_is_read",
    "B11": "unit/test_damaged_video.py::test_a_file_that_changes_while_it_is_read",
    "B12": "stages/test_names.py::test_extract_keeps_forty_hostile_names_apart",
    "B13": "stages/test_names.py::test_predict_answers_for_forty_hostile_names",
    "B14": "unit/test_feature_store.py::test_only_hashes_name_files",
    "C1": "unit/test_files.py::test_a_full_device_is_named",
    "C2": "stages/test_store_faults.py::test_a_folder_without_permission_is_found_before_any_work",
    "C3": "stages/test_store_faults.py::test_kill_at_50_moments_of_writing",
    "C4": "stages/test_store_faults.py::test_every_stopping_signal_takes_the_same_path",
    "C5": "stages/test_commands.py::test_an_interrupted_run_goes_on_where_it_was",
    "C6": "end_to_end/test_decoding_processes.py::test_bar_5_a_child_killed_at_any_of_20_jobs_costs_that_file_alone",
    "C7": "end_to_end/test_decoding_processes.py::test_bar_5_children_that_hang_or_abort_cost_their_files_alone",
    "C8": "stages/test_store_faults.py::test_several_writers_and_readers_of_one_store",
    "C11": "stages/test_commands.py::test_one_file_whose_answer_fails_stops_no_other_and_is_tried_again",
    "C12": "end_to_end/test_decoding_processes.py::test_a_reader_of_the_output_that_goes_away",
    "D2": "unit/test_training.py::test_one_class_and_infinite_loss_are_refused",
    "D3": "unit/test_index.py::test_every_bad_label_is_named_with_its_row",
    "D4": "unit/test_tables.py::test_videos_come_back_as_they_were",
    "D6": "unit/test_index.py::test_segments_that_are_refused",
    "D7": "unit/test_index.py::test_a_class_that_is_nowhere_to_be_learnt",
    "D8": "unit/test_splits.py::test_a_class_with_fewer_videos_than_folds_is_no_error",
    "D9": "unit/test_index.py::test_a_copy_on_two_sides_is_a_leak",
    "D10": "unit/test_extract.py::test_a_video_without_frames_and_one_with_small_frames_are_errors_of_their_own",
    "E1": "unit/test_modelfolder.py::test_missing_and_foreign_folders_are_named",
    "E3": "unit/test_backbones.py::test_code_in_a_weights_file_does_not_run",
    "E4": "unit/test_backbone_downloads.py::test_code_in_a_cached_file_does_not_run",
    "E6": "unit/test_feature_store.py::test_every_flipped_bit_is_found",
    "E7": "unit/test_framestore.py::test_missing_cut_and_swapped_files",
    "E9": "unit/test_backbone_downloads.py::test_without_a_network_the_error_says_what_to_put_where",
    "E10": "unit/test_backbone_downloads.py::test_a_cached_file_that_is_not_what_its_name_says_is_not_read",
    "F1": "unit/test_tracking.py::test_a_server_that_is_away_is_reported_once_and_stops_nothing",
    "F2": "unit/test_tracking.py::test_a_server_that_never_answers_is_asked_once",
    "F5": "unit/test_tracking.py::test_names_become_what_mlflow_takes",
    "F7": "stages/test_store_faults.py::test_by_hand_the_stage_of_a_killed_parent_goes_on_and_a_new_run_is_told",
}


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def test_at_least_70_of_the_106_faults_are_made() -> None:
    all_ids = {f"{letter}{number}" for letter, count in ENTRIES.items() for number in range(1, count + 1)}
    assert len(all_ids) == 106
    in_corpus = {fault.id for module in (unusable, damaged, good) for fault in module.rows()}
    covered = in_corpus | set(CATALOGUE)
    assert covered <= all_ids
    assert len(covered) >= NUM_COVERED
    assert not in_corpus & set(CATALOGUE)


def test_the_tests_named_exist() -> None:
    for name in CATALOGUE.values():
        file, function = name.split("::")
        assert function in functions_of(ROOT / "tests" / file), name
