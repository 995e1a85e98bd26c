"""What turns the chapters into the site: the Sphinx extension, executed pages, citations, notebooks to download."""
