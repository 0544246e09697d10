"""Files and archives → documents."""
