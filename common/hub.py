"""Models by name: a repository on the Hugging Face hub becomes a directory in the local cache, and
a directory becomes a repository. A model in an object store has a URL for a name.

The huggingface_hub package downloads, resumes and caches, and obeys its environment variables
(`HF_HOME`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_TOKEN`). Only files that this project reads are
downloaded, and only the best of several weight formats.
"""

import contextlib
import fnmatch
import os
import posixpath
import re
from collections.abc import Iterable, Iterator

from common import remote, remote_cache
from common.errors import InputError

# The configuration, and what a tokenizer needs.
SMALL_FILES = (
    "config.json",
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# Per format: a single file; or the index of a sharded model, and its shards. The best format first.
WEIGHT_FORMATS = (
    ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
    ("tf_model.h5",),
)
WEIGHT_FILES = tuple(name for form in WEIGHT_FORMATS for name in form[:2])

_REVISION = re.compile(r"\w[\w./+-]*", re.ASCII)


def resolve(
    name_or_directory: str | os.PathLike,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    weights: bool = True,
) -> str:
    """Returns the path of a model's directory: a local one, or the cached copy of one on the hub.

    Args:
        name_or_directory: a directory, a URL such as "s3://bucket/model", or a name such as
            "owner/model". A directory with that path takes precedence.
        revision: a branch, tag or commit of the repository; None is its main branch.
        cache_dir: where downloads are kept; None is huggingface_hub's own cache.
        local_files_only: use only what was downloaded before; do not connect to the hub.
        weights: also download the weights. A tokenizer needs none.

    Raises:
        InputError: no such directory, name or revision, no weights, no access, or no connection; or
            a `revision` for something that is not on the hub. A path or an impossible name is
            refused before the hub is contacted.
    """
    name = os.fspath(name_or_directory)
    is_local = os.path.isdir(name)
    if revision is not None and (is_local or remote.is_url(name)):
        place = "a local directory" if is_local else "not on the hub"
        raise InputError(f"`revision` is {revision!r}, but {name} is {place}")
    if is_local:
        return name
    if remote.is_url(name):
        return remote_cache.fetch(name, lambda names: model_files(names, weights=weights)).path
    if isinstance(name_or_directory, os.PathLike) or looks_like_path(name):
        raise InputError(f"no such directory: {name} (a name on the hub looks like owner/model)")
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise InputError(f"`revision` must be a branch, tag or commit. Received: {revision!r}")
    options = {"cache_dir": cache_dir, "local_files_only": local_files_only}
    if not weights:
        return _download(name, revision, SMALL_FILES, **options)
    patterns = SMALL_FILES
    for weight_format in WEIGHT_FORMATS:
        directory = _download(name, revision, patterns + weight_format, **options)
        if not set(WEIGHT_FILES).isdisjoint(os.listdir(directory)):
            return directory
        patterns, revision = (), os.path.basename(directory)  # all files are of one commit
    raise InputError(f"{name} on the hub has none of {', '.join(WEIGHT_FILES)}")


def model_files(
    names: Iterable[str], folders: Iterable[str] = ("",), weights: bool = True
) -> Iterator[str]:
    """The files in `folders` that belong to a model, with weights in the best format only."""
    names = list(names)
    for folder in folders:
        inside = {posixpath.basename(n): n for n in names if posixpath.dirname(n) == folder}
        yield from (path for name, path in inside.items() if name in SMALL_FILES)
        for patterns in WEIGHT_FORMATS if weights else ():
            if found := [n for p in patterns for n in fnmatch.filter(inside, p)]:
                yield from (inside[name] for name in found)
                break


def looks_like_path(text: str) -> bool:
    """Whether a text can only be the path of a file or directory, not a name on the hub."""
    return (
        text.startswith((".", "/", "~"))
        or ".." in text
        or text.count("/") > 1
        or os.path.exists(text)
    )


def _download(name, revision, patterns, cache_dir, local_files_only):
    """Downloads the files that match `patterns`; returns the directory of the snapshot."""
    from huggingface_hub import snapshot_download

    action = f"download {name} ({revision or 'main'}), which is not a local directory"
    with errors_explained(action, is_offline=local_files_only):
        return snapshot_download(
            name,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            allow_patterns=list(patterns),
        )


@contextlib.contextmanager
def errors_explained(action: str, kind: str = "model", is_offline: bool = False) -> Iterator[None]:
    """Says what an error of huggingface_hub means.

    Args:
        action: what is tried, with the name; the message is "cannot ACTION: REASON".
        kind: what the repository holds.
        is_offline: whether the hub must not be contacted. HF_HUB_OFFLINE also forbids it.

    Raises:
        InputError: for every error of huggingface_hub.
    """
    from huggingface_hub import constants, errors

    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    missing = f"no such {kind} or revision on {constants.ENDPOINT}. For a private one, {log_in}"
    try:
        yield
        return
    except InputError:
        raise
    except errors.HFValidationError:
        problem = "it is not a valid name on the hub, such as owner/name"
    except errors.GatedRepoError:
        problem = f"it is gated. Request access on its page on the hub, then {log_in}"
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        problem = missing
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        problem = f"{error.__cause__ or error}"
        if is_offline or constants.is_offline_mode():
            problem = (
                "it is not completely in the local cache, and the hub is not contacted. Run once "
                "without HF_HUB_OFFLINE and `local_files_only`, or pass the path of a copy"
            )
        elif status in (401, 403):
            problem = f"the hub does not allow it. With a token that may do this, {log_in}"
        elif type(error) is FileNotFoundError:  # of HfFileSystem
            problem = missing
        elif isinstance(error, OSError | errors.HTTPError):
            problem += f". Check the connection to {constants.ENDPOINT}, or pass the path of a copy"
    raise InputError(f"cannot {action}: {problem}")


def find_card(name: str, public: bool) -> str | None:
    """The README.md of a model on the hub; None if there is no such model, or it has none.

    Raises:
        InputError: the model exists and is public although `public` is false, the hub refuses, or
            there is no connection.
    """
    from huggingface_hub import HfApi, errors

    api = HfApi()
    with errors_explained(f"upload {name}"):
        try:
            if not api.model_info(name).private and not public:
                raise InputError(
                    f"{name} exists on the hub and is public: everybody would see what is sent. "
                    "Add --public if that is meant, or choose another name"
                )
            with open(api.hf_hub_download(name, "README.md"), encoding="utf-8", newline="") as file:
                return file.read()
        except (errors.RepositoryNotFoundError, errors.EntryNotFoundError):
            return None


def upload(directory: str | os.PathLike, name: str, card: str | None, public: bool) -> str:
    """Sends all files of a directory to a model's repository on the hub; returns the commit's URL.

    Args:
        directory: the one that holds the files; links are followed.
        name: "owner/model"; the repository is created if there is none.
        card: the text of README.md, for the hub to check before anything is sent.
        public: whether everybody may see a new repository.

    Raises:
        InputError: the hub refuses the card, the name or the user, or there is no connection.
    """
    from huggingface_hub import HfApi, ModelCard

    api = HfApi()
    with errors_explained(f"upload {name}"):
        if card is not None:
            ModelCard(card).validate()
        api.create_repo(name, private=not public, exist_ok=True)
        options = {"repo_id": name, "commit_message": "Upload a ConvBERT"}
        return api.upload_folder(folder_path=directory, **options).commit_url
