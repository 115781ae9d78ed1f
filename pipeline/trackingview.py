"""A saved view of MLflow's page of runs: which rows and which columns. Without one its table shows no score at all."""

import base64
import json
import zlib
from collections.abc import Sequence

TAG = "mlflow.sharedViewState."  # of the experiment; the address parameter viewStateShareKey=NAME opens it


def saved_view(
    name: str, columns: Sequence[str], rows: str = "", *, order_by: str = "attributes.start_time"
) -> tuple[str, str]:
    """The tag of an experiment, and its value, by which MLflow's menu "Views" offers a view.

    columns: such as "metrics.`test/top1`", "tags.`fold`". rows: a filter in MLflow's words. The text is what MLflow's
    page itself saves; its time is fixed, so that the same view is the same text.
    """
    state = {
        "searchFilter": rows, "orderByKey": order_by, "orderByAsc": False, "startTime": "ALL",
        "lifecycleFilter": "Active", "datasetsFilter": [], "modelVersionFilter": "All Runs",
        "selectedColumns": list(columns),
    }  # fmt: skip
    packed = "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode("ascii")
    return f"{TAG}{name}", json.dumps({"name": name, "createdAt": 1, "state": packed})
