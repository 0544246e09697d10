"""Sends a saved model, with its card, to the Hugging Face hub.

    python3 scripts/upload_model.py DIRECTORY OWNER/NAME --license apache-2.0 --language da
    python3 scripts/upload_model.py DIRECTORY OWNER/NAME --license apache-2.0 --language da --yes

Without --yes it shows the files and the card that would be sent, and sends nothing. A new model is
private unless --public is given. Folders in DIRECTORY and hidden files are not sent. README.md is
the card that the jobs wrote, or your own; the copy that is sent has the license, the languages and
the model's name. A card that was edited on the hub is kept there, unless yours was edited, too.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import bootstrap  # noqa: F401

from common import errors, files, hub
from common.errors import InputError
from jobs import model_card


def main(arguments: list[str] | None = None) -> None:
    """Checks the model, completes its card, shows what would be sent, and sends it."""
    args = parse_arguments(arguments)
    if args.name.count("/") != 1:
        raise InputError(f"expected a name such as owner/model. Received: {args.name}")
    paths = find_files(args.directory)
    card = complete_card(args.directory, args.name, args.license, args.language)
    there = hub.find_card(args.name, args.public) if args.yes else None
    is_edited = model_card.is_edited_text
    if there is not None and is_edited(there) and not is_edited(card):
        print(f"README.md of {args.name} was edited on the hub: it stays as it is there\n")
        card = None
    show(args.name, paths, card, args.public)
    if not args.yes:
        print("\nNothing was sent. Add --yes to send it")
        return
    with tempfile.TemporaryDirectory() as staged:
        for path in paths:
            Path(staged, path.name).symlink_to(path.resolve())
        if card is not None:
            Path(staged, "README.md").write_bytes(card.encode())
        print(f"\n{hub.upload(staged, args.name, card, args.public)}")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("directory", metavar="DIRECTORY", help="of a saved model")
    add("name", metavar="OWNER/NAME", help="of the model on the hub")
    add("--license", help="of the model, such as apache-2.0; asked for if the card has none")
    add("--language", nargs="+", help="of the texts, such as da, or several")
    add("--public", action="store_true", help="let everybody see a new model")
    add("--yes", action="store_true", help="send it, rather than only show it")
    return parser.parse_args(arguments)


def find_files(directory: str) -> list[Path]:
    """The files to send, except README.md: those of a saved model that can be opened."""
    from safetensors import SafetensorError, safe_open

    from data.tokenizer import saved_files
    from model.config import ConvBertConfig

    folder = Path(directory)
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(
            f"{config} not found. Give the directory of a saved model, such as "
            "models/NAME/discriminator or models/NAME/finetuning_models/TASK_1"
        )
    network = ConvBertConfig.from_hf_dict(files.read_json_object(config), str(config))
    saved_files.check_vocab_size(folder, len(saved_files.read(folder).vocab), network.vocab_size)
    paths = [path for path in sorted(folder.iterdir()) if path.is_file()]
    paths = [path for path in paths if not path.name.startswith(".") and path.name != "README.md"]
    if not {path.name for path in paths}.intersection(hub.WEIGHT_FILES):
        raise InputError(f"{directory} has none of {', '.join(hub.WEIGHT_FILES)}")
    for path in paths:
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, "numpy"):
                    pass
            except SafetensorError as error:
                raise InputError(f"{path} is damaged: {error}") from None
    return paths


def complete_card(
    directory: str, name: str, license_id: str | None, language: list[str] | None
) -> str:
    """The model's card with its name, license and languages; the file stays as it is."""
    import yaml
    from huggingface_hub import ModelCard

    path = os.path.join(directory, model_card.FILE)
    if os.path.exists(path):
        text = files.read_small_text(path, max_bytes=4 << 20)
    else:
        text = model_card.plain_card(directory)
    try:
        card = ModelCard(text.replace(model_card.HUB_NAME, name))
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: the metadata between the lines of --- : {error}") from None
    card.data.license = license_id or card.data.license or ask_license()
    card.data.language = language or card.data.language
    return str(card) if model_card.is_edited_text(text) else model_card.sign(str(card))


def ask_license() -> str:
    """Asks for the license, if there is somebody to ask."""
    if not sys.stdin.isatty():
        raise InputError("the license is missing: give one, such as --license apache-2.0")
    license_id = input("License of the model, such as apache-2.0 or cc-by-sa-4.0: ").strip()
    if not license_id:
        raise InputError("a model without a license may not be used by anybody: give --license")
    return license_id


def show(name: str, paths: list[Path], card: str | None, public: bool) -> None:
    """Prints what would be sent, and where."""
    from huggingface_hub import constants

    sizes = {path.name: path.stat().st_size for path in paths}
    if card is not None:
        sizes["README.md"] = len(card.encode())
    print(f"{constants.ENDPOINT}/{name} ({'public' if public else 'private, if it is new'})\n")
    for file, size in sizes.items():
        print(f"{size:>15,} bytes  {file}")
    if card is not None:
        print(f"\nREADME.md:\n\n{card}")


if __name__ == "__main__":
    errors.run(main)
