#!/bin/sh
# A good guess: with mkdocs-material's built-in plugin `offline` a site loads nothing from the network.
# What happens: the plugin adds to every page a script from a public host, without which the search does not work where the
# pages are opened from a folder. A site with neither the plugin nor web fonts loads nothing, so for "no network" one leaves
# `offline` out; its author's advice is to add the plugin `privacy`, which fetches the script when the site is built.
# What we do about it: mkdocs.yml leaves it out, and a test looks through the built pages.
# Source: the plugin's own plugins/offline/plugin.py, and discussion 6605 of squidfunk/mkdocs-material; the page on building
# for offline usage names the other plugin without saying that this one needs it. Seen with mkdocs-material 9.8.2.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check mkdocs==1.6.1 mkdocs-material==9.8.2
cd "$folder"
mkdir docs
echo "# A page" >docs/index.md
"$folder/venv/bin/pip" list --disable-pip-version-check 2>/dev/null | grep -E '^mkdocs(-material)? '

# Prints how many scripts of other hosts the page has, built with these plugins.
foreign_scripts() {
    printf 'site_name: A site\ntheme: {name: material, font: false}\nplugins: [%s]\n' "$1" >mkdocs.yml
    NO_MKDOCS_2_WARNING=1 "$folder/venv/bin/mkdocs" build -q
    grep -o '<script[^>]*src="*https:' site/index.html | wc -l | tr -d ' '
}

without=$(foreign_scripts "search")
with=$(foreign_scripts "search, offline")
echo "scripts from other hosts: $without without the plugin, $with with it"
[ "$without" = 0 ] && [ "$with" = 1 ]
