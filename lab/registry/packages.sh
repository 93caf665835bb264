#!/bin/sh
# Build the stand-in packages, under the names real hosts know, and a signed repository of them in $1.
set -e
repository=$1
cd "$(dirname "$0")"
umask 022
mkdir -p "$repository"
architecture=$(dpkg --print-architecture)

# package NAME VERSION DEPENDS ARCHITECTURE DESCRIPTION; its files are what lies in ./tree already.
package() {
    mkdir -p tree/DEBIAN
    {
        printf 'Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: fleet lab <lab@localhost>\n' "$1" "$2" "$4"
        [ -z "$3" ] || printf 'Depends: %s\n' "$3"
        printf 'Section: admin\nPriority: optional\nDescription: %s\n Stand-in of the fleet lab.\n' "$5"
    } >tree/DEBIAN/control
    dpkg-deb --root-owner-group --build tree "$repository/$1_${2}_$4.deb" >/dev/null
    rm -rf tree
}

# program NAME VERSION: a stand-in, with the version it tells filled in.
program() {
    mkdir -p tree/usr/bin
    sed "s/@VERSION@/$2/g" "standins/$1" >"tree/usr/bin/$1"
    chmod 0755 "tree/usr/bin/$1"
}

unit() {
    mkdir -p tree/usr/lib/systemd/system tree/DEBIAN
    cp "standins/$1" "tree/usr/lib/systemd/system/$1"
}

script() {
    mkdir -p tree/DEBIAN
    { printf '#!/bin/sh\nset -e\n'; cat; } >"tree/DEBIAN/$1"
    chmod 0755 "tree/DEBIAN/$1"
}

# le VALUE BYTES: a number, its lowest byte first.
le() {
    value=$1 bytes=$2
    while [ "$bytes" -gt 0 ]; do
        printf "\\$(printf %03o $((value % 256)))"
        value=$((value / 256)) bytes=$((bytes - 1))
    done
}

# zeros BYTES
zeros() {
    head -c "$1" /dev/zero
}

# section NAME TYPE FLAGS OFFSET SIZE: an entry of an ELF file's table of sections.
section() {
    le "$1" 4; le "$2" 4; le "$3" 8; le 0 8; le "$4" 8; le "$5" 8; le 0 8; le 1 8; le 0 8
}

# module FILE VERSION: an ELF file with nothing but what modinfo reads; no kernel would load it.
module() {
    printf 'version=%s\000license=Dual MIT/GPL\000name=nvidia\000vermagic=fleet-lab\000' "$2" >info
    printf '\000.modinfo\000.shstrtab\000' >names
    zeros $(((8 - ($(stat -c %s info) + $(stat -c %s names)) % 8) % 8)) >padding
    table=$((64 + $(stat -c %s info) + $(stat -c %s names) + $(stat -c %s padding)))
    {
        printf '\177ELF\002\001\001'; zeros 9
        le 1 2; le 62 2; le 1 4; le 0 8; le 0 8; le "$table" 8; le 0 4
        le 64 2; le 0 2; le 0 2; le 64 2; le 3 2; le 2 2
        cat info names padding
        zeros 64
        section 1 1 2 64 "$(stat -c %s info)"
        section 10 3 0 $((64 + $(stat -c %s info))) "$(stat -c %s names)"
    } >"$1"
    rm -f info names padding
}

for upstream in 570.195.03 580.82.07 580.95.05; do
    version=$upstream-1
    branch=${upstream%%.*}

    mkdir -p "tree/usr/src/nvidia-$upstream"
    printf 'PACKAGE_NAME="nvidia"\nPACKAGE_VERSION="%s"\n' "$upstream" >"tree/usr/src/nvidia-$upstream/dkms.conf"
    module "tree/usr/src/nvidia-$upstream/nvidia.ko" "$upstream"
    mkdir -p tree/usr/sbin
    cp standins/dkms tree/usr/sbin/dkms
    chmod 0755 tree/usr/sbin/dkms
    # Builds the module, and loads it where no other is loaded: an upgrade takes a reboot to work.
    script postinst <<'END'
if [ "$1" = configure ]; then
    dkms autoinstall -k "$(uname -r)"
    [ -e /proc/driver/nvidia/version ] || [ ! -x /usr/lib/fleet-lab/gpus.sh ] || /usr/lib/fleet-lab/gpus.sh
fi
END
    script postrm <<'END'
if [ "$1" = remove ]; then
    for module in /lib/modules/*/updates/dkms/nvidia.ko; do
        [ -e "$module" ] || continue
        kernel=${module#/lib/modules/}
        rm -f "$module"
        depmod "${kernel%%/*}" 2>/dev/null || true
    done
fi
END
    package nvidia-kernel-open-dkms "$version" kmod all 'open kernel modules'

    unit nvidia-persistenced.service
    script postinst <<'END'
if [ "$1" = configure ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl enable --now nvidia-persistenced.service
fi
END
    script prerm <<'END'
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then systemctl disable --now nvidia-persistenced.service; fi
END
    package nvidia-persistenced "$version" '' "$architecture" 'keeps the driver loaded'

    program nvidia-smi "$upstream"
    package nvidia-driver-cuda "$version" \
        "nvidia-kernel-open-dkms (= $version), nvidia-persistenced (= $version)" "$architecture" 'driver for compute'

    [ "$upstream" = 580.82.07 ] && continue
    mkdir -p tree/etc/apt/preferences.d
    for name in 'nvidia-driver-*' 'nvidia-kernel-*' nvidia-persistenced; do
        printf 'Package: %s\nPin: version %s.*\nPin-Priority: 1000\n\n' "$name" "$branch"
    done >"tree/etc/apt/preferences.d/nvidia-driver-pinning-$branch"
    package "nvidia-driver-pinning-$branch" "$branch-1" '' all "keeps the driver on branch $branch"
done

for upstream in 1.17.8 1.18.0; do
    version=$upstream-1
    mkdir -p tree/usr/lib/fleet-lab
    printf '%s\n' "$upstream" >tree/usr/lib/fleet-lab/libnvidia-container
    package libnvidia-container1 "$version" '' "$architecture" 'container library'

    mkdir -p tree/usr/lib/fleet-lab
    printf '%s\n' "$upstream" >tree/usr/lib/fleet-lab/libnvidia-container-tools
    package libnvidia-container-tools "$version" "libnvidia-container1 (>= $version)" "$architecture" 'container library tools'

    program nvidia-ctk "$upstream"
    program nvidia-container-runtime "$upstream"
    if [ "$upstream" = 1.18.0 ]; then
        unit nvidia-cdi-refresh.service
        unit nvidia-cdi-refresh.path
        script postinst <<'END'
if [ "$1" = configure ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl enable nvidia-cdi-refresh.service nvidia-cdi-refresh.path
    systemctl restart --no-block nvidia-cdi-refresh.service nvidia-cdi-refresh.path
fi
END
        script prerm <<'END'
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl disable --now nvidia-cdi-refresh.service nvidia-cdi-refresh.path
fi
END
    fi
    package nvidia-container-toolkit-base "$version" '' "$architecture" 'nvidia-ctk and the container runtime'

    program nvidia-container-runtime-hook "$upstream"
    mkdir -p tree/etc/nvidia-container-runtime
    printf '[nvidia-container-runtime]\nmode = "auto"\n' >tree/etc/nvidia-container-runtime/config.toml
    printf '/etc/nvidia-container-runtime/config.toml\n' >conffiles
    mkdir -p tree/DEBIAN && mv conffiles tree/DEBIAN/conffiles
    package nvidia-container-toolkit "$version" \
        "libnvidia-container-tools (>= $version), nvidia-container-toolkit-base (= $version)" \
        "$architecture" 'GPUs in containers'
done

cd "$repository"
for file in *.deb; do
    dpkg-deb --field "$file"
    printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$file" "$(stat -c %s "$file")" "$(sha256sum "$file" | cut -d ' ' -f 1)"
done >Packages
gzip -9kn Packages
{
    printf 'Origin: fleet-lab\nLabel: fleet-lab\nDate: %s\nSHA256:\n' "$(date -Ru)"
    for file in Packages Packages.gz; do
        printf ' %s %s %s\n' "$(sha256sum "$file" | cut -d ' ' -f 1)" "$(stat -c %s "$file")" "$file"
    done
} >Release

GNUPGHOME=$(mktemp -d)
export GNUPGHOME
gpg --batch --quiet --passphrase '' --quick-generate-key 'fleet lab <lab@localhost>' ed25519 sign never
gpg --batch --quiet --armor --export >key.asc
gpg --batch --quiet --clearsign --output InRelease Release
gpg --batch --quiet --armor --detach-sign --output Release.gpg Release
gpgconf --kill all
rm -rf "$GNUPGHOME"
