"""Great Expectations' own pages on what it found (Data Docs), one site for all servers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from airflow_triton.validation.checks.gx import new_context, short
from airflow_triton.validation.checks.suites import great_expectations

SITE, RESULTS = "data_docs", "great_expectations"


def keep_docs(keep: Path, result: Any, name: str, server: str) -> str:
    """Write the site into `data_docs` of the folder, beside what is there of other servers, and GX's own result into `great_expectations`.

    Answers why that could not be done; "" where it was. Pictures that no page shows (3 MB of them) are left out.
    """
    try:
        _write(keep, result, name, server)
    except Exception as error:  # noqa: BLE001 - the verdict does not hang on its picture
        return f"{type(error).__name__}: {short(str(error))}"
    return ""


def _write(keep: Path, result: Any, name: str, server: str) -> None:
    gx = great_expectations()
    from great_expectations.core.expectation_suite import ExpectationSuite
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.resource_identifiers import ExpectationSuiteIdentifier, ValidationResultIdentifier

    site = {"class_name": "SiteBuilder", "show_how_to_buttons": False, "store_backend": _folder(keep / SITE)}
    results = {"class_name": "ValidationResultsStore", "store_backend": _folder(keep / RESULTS)}
    sites = {"site": {**site, "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"}}}
    context = new_context(gx, {"data_docs_sites": sites, "stores": {"results": results}})
    suite, where = _plain(name) or "suite", _plain(server) or "server"
    context.suites.add(ExpectationSuite(name=suite, expectations=[each.expectation_config.to_json_dict() for each in result.results]))
    key = ValidationResultIdentifier(ExpectationSuiteIdentifier(suite), RunIdentifier(run_name=where), where)
    result.meta["run_id"] = key.run_id
    result.suite_name = suite
    context.validation_results_store.set(key, result)
    context.build_data_docs()
    _finish(keep / SITE)


def _finish(site: Path) -> None:
    """Links without a script, since the index fills its table by one from the Internet; and no picture that no page shows."""
    index = site / "index.html"
    found = sorted(page.relative_to(site).as_posix() for page in (site / "validations").rglob("*.html"))
    links = "".join(f'<li><a href="{page}">{page.removeprefix("validations/").removesuffix(".html")}</a></li>' for page in found)
    index.write_text(index.read_text(encoding="utf-8").replace("</body>", f"<ul>{links}</ul></body>"), encoding="utf-8")
    pages = "".join(page.read_text(encoding="utf-8") for page in site.rglob("*.html"))
    for picture in (site / "static" / "images").iterdir():
        if picture.name not in pages:
            picture.unlink()


def _folder(path: Path) -> dict[str, Any]:
    return {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(path), "suppress_store_backend_id": True}


def _plain(name: str) -> str:
    """A name that GX takes as the name of a folder; of a URL, its host and port."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name.rpartition("://")[2]).strip(".")
