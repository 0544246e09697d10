"""Token classification: chunks, entities, parts of speech."""
