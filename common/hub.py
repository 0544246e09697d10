"""Models by name: a repository of the Hugging Face hub becomes a directory in the local cache.

Downloads, their resumption and the cache are huggingface_hub's, with its environment variables
(`HF_HOME`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_TOKEN`). Only files that this project reads are
fetched, and of several weight formats only the best.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from common.errors import InputError

# Every repository's small files: configuration, and what a tokenizer needs.
SMALL_FILES = (
    "config.json",
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


class WeightFormat(NamedTuple):
    """Names of the files of one weight format: a single one, or an index and shards."""

    single: str
    index: str | None = None
    shard: str = "(?!)"  # a pattern; this one matches nothing


# The best first: where a directory has several, the first is read.
WEIGHT_FORMATS = (
    WeightFormat(
        "model.safetensors",
        "model.safetensors.index.json",
        r"model-\d+-of-\d+\.safetensors",
    ),
    WeightFormat(
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        r"pytorch_model-\d+-of-\d+\.bin",
    ),
    WeightFormat("tf_model.h5"),
)
WEIGHT_FILES = tuple(name for form in WEIGHT_FORMATS for name in form[:2] if name)

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_REVISION = re.compile(r"\w[\w./+-]*", re.ASCII)


def resolve(
    name_or_directory: str | os.PathLike,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    weights: bool = True,
) -> str:
    """The directory of a model: a local one as it is, or the cached copy of one of the hub's.

    Args:
        name_or_directory: a directory, which always wins, or a name such as "owner/model".
        revision: a branch, tag or commit of the hub's repository; None is its main branch.
        cache_dir: where downloads are kept; None is huggingface_hub's own cache.
        local_files_only: ask nobody, and use what was downloaded before.
        weights: whether the network's weights are wanted, too; a tokenizer needs none.

    Raises:
        InputError: no such directory, no such name or revision, no access, no connection; what
            looks like a path, or is no possible name, is refused before anything is asked.
    """
    path = os.fspath(name_or_directory)
    if os.path.isdir(path):
        if revision is not None:
            raise InputError(
                f"{path} is a local directory, which has no revision {revision!r}; revisions are "
                "for names of the hub"
            )
        return path
    if isinstance(name_or_directory, os.PathLike) or looks_like_path(path):
        raise InputError(f"no such directory: {path}; and a name on the hub looks like owner/model")
    _check_name(path, revision)
    fetch = _Fetcher(path, revision, cache_dir, local_files_only)
    directory = fetch(SMALL_FILES)
    return fetch.weights(directory) if weights else directory


def looks_like_path(text: str) -> bool:
    """Whether a text can only mean a file or directory, and no name of the hub."""
    return (
        text.startswith((".", "/", "~"))
        or ".." in text
        or text.count("/") > 1
        or os.path.exists(text)
    )


def _check_name(name, revision):
    """Refuses what no repository is called, and revisions that are no git references."""
    if not _NAME.fullmatch(name) or "--" in name or name.endswith((".git", ".", "-")):
        raise InputError(
            f"{name!r} is neither a directory here nor a possible name on the hub, such as "
            '"owner/model"'
        )
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise InputError(f"`revision` must be a branch, tag or commit. Received: {revision!r}")


def _endpoint():
    """The hub's address, read now: the library reads it when it is imported."""
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT") or constants.ENDPOINT


class _Fetcher:
    """Fetches files of one repository, at one revision."""

    def __init__(self, name, revision, cache_dir, local_files_only):
        self.name, self.revision, self.cache_dir = name, revision, cache_dir
        self.local_files_only = local_files_only

    def __call__(self, names, revision=None) -> str:
        """The directory that now holds those of the files that the repository has."""
        from huggingface_hub import snapshot_download

        with _explained(self.name, self.revision):
            return snapshot_download(
                self.name,
                revision=revision or self.revision,
                cache_dir=self.cache_dir,
                local_files_only=self.local_files_only,
                allow_patterns=list(names),
                endpoint=_endpoint(),
            )

    def weights(self, directory: str) -> str:
        """Fetches the best weight format; `directory` holds the small files of the same commit."""
        from huggingface_hub import constants

        commit = os.path.basename(directory)  # asked for below, so that all files are of one commit
        there = set(self._files_of_commit(commit)) | set(os.listdir(directory))
        offline = self.local_files_only or constants.is_offline_mode()
        for form in WEIGHT_FORMATS:
            if there.isdisjoint(form[:2]):
                continue
            wanted = sorted(there.intersection(form[:2]) - {None})
            wanted += sorted(name for name in there if re.fullmatch(form.shard, name))
            missing = [n for n in wanted if not os.path.exists(os.path.join(directory, n))]
            if not missing:
                return directory
            if not offline:
                return self(wanted, commit)
        if there.isdisjoint(WEIGHT_FILES):
            raise InputError(f"{self.name} on the hub has none of {', '.join(WEIGHT_FILES)}")
        raise InputError(_not_cached(self.name, self.revision))

    def _files_of_commit(self, commit):
        from huggingface_hub import get_cached_repo_tree
        from huggingface_hub.errors import CachedRepoTreeNotFoundError

        # The listing was fetched with the small files; caches of old versions of the library have
        # none.
        with contextlib.suppress(CachedRepoTreeNotFoundError):
            listing = get_cached_repo_tree(self.name, revision=commit, cache_dir=self.cache_dir)
            return [file.path for file in listing]
        return []


@contextlib.contextmanager
def _explained(name: str, revision: str | None) -> Iterator[None]:
    """Turns the library's errors into ones that say what to do."""
    import httpx2
    from huggingface_hub import errors

    at = f" at revision {revision!r}" if revision else ""
    try:
        yield
    except errors.GatedRepoError:
        raise InputError(
            f"{name} on the hub is gated: ask for access on its page, then log in with "
            "`hf auth login`, or set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{name} is neither a directory here nor a public model on {_endpoint()}. Check "
            "the name; for a private model, log in with `hf auth login`, or set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{name} on the hub has no revision {revision!r}") from None
    except errors.LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, httpx2.HTTPError):
            raise InputError(_unreachable(name, at, error.__cause__)) from None
        raise InputError(_not_cached(name, revision)) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        hint = ": log in with `hf auth login`, or set HF_TOKEN" if status in (401, 403) else ""
        raise InputError(f"{name}{at}: the hub answered {status}{hint}. {error}") from None
    except httpx2.HTTPError as error:
        raise InputError(_unreachable(name, at, error)) from None
    except OSError as error:  # the cache's disk is full, or not ours
        raise InputError(f"{name}{at} cannot be downloaded: {error}") from None


def _unreachable(name, at, error):
    return (
        f"{name} is no directory here, and {_endpoint()} cannot be reached for {name}{at}: "
        f"{error or type(error).__name__}. Check the connection, or give the directory of a copy"
    )


def _not_cached(name, revision):
    return (
        f"{name} ({revision or 'main'}) is no directory here and has not been downloaded in full, "
        "and downloads are off. Run once without HF_HUB_OFFLINE and `local_files_only`, or give "
        "the directory of a copy"
    )
