# Sourced by quickstart and tests/run: installs the Debian packages that are missing. None of them starts a service.

# install_packages FILE...: one package a line in each file, '#' starts a comment. Does nothing, and needs no rights,
# when all are there.
install_packages() {
  local wanted missing=() package
  wanted=$(sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$@")
  for package in $wanted; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  echo "installing ${#missing[@]} packages: ${missing[*]}"
  local as_root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null || { echo "packages are missing, and neither root nor sudo is at hand" >&2; return 1; }
    as_root=(sudo)
    [[ -t 0 ]] || as_root+=(-n)
  fi
  # sudo drops the environment, hence env.
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=3 -o Dpkg::Use-Pty=0)
  "${apt[@]}" update >/dev/null || echo "apt-get update failed; going on with the lists at hand" >&2
  "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null ||
    { echo "apt-get could not install: ${missing[*]}" >&2; return 1; }
}
