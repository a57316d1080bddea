//! A site's first content: unpacked once, into an empty webroot only.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

/// How long the node agent may take to make the folder that it has reported.
const FOLDER_LIMIT: Duration = Duration::from_secs(10);

/// Puts `source` (a folder, .tar or .tar.gz) into `webroot` unless a file is there already.
///
/// The files get the folder's owner, so that the site itself may write where it does.
pub(super) fn put(source: &Path, webroot: &Path) -> anyhow::Result<()> {
    let until = Instant::now() + FOLDER_LIMIT;
    while !webroot.is_dir() {
        if Instant::now() > until {
            bail!("{} does not appear; is this the nodes' storage folder?", webroot.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    if has_files(webroot).with_context(|| format!("cannot look into {}", webroot.display()))? {
        return Ok(());
    }
    let owner = fs::metadata(webroot)?;
    if source.is_dir() {
        copy(source, webroot).with_context(|| format!("cannot copy {}", source.display()))?;
    } else {
        unpack(source, webroot).with_context(|| format!("cannot unpack {}", source.display()))?;
    }
    give(webroot, owner.uid(), owner.gid())
        .with_context(|| format!("cannot give {} to the site's user", webroot.display()))
}

/// Folders alone are the node agent's own: it makes the public folder.
fn has_files(folder: &Path) -> std::io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() || has_files(&entry.path())? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn unpack(source: &Path, webroot: &Path) -> anyhow::Result<()> {
    let file = fs::File::open(source)?;
    let name = source.to_string_lossy();
    // The archive crate refuses members that would land outside of the folder.
    if name.ends_with(".tar") {
        tar::Archive::new(file).unpack(webroot)?;
    } else if name.ends_with(".tar.gz") || name.ends_with(".tgz") {
        tar::Archive::new(flate2::read::GzDecoder::new(file)).unpack(webroot)?;
    } else {
        bail!("must be a folder, .tar, .tar.gz or .tgz");
    }
    Ok(())
}

fn give(path: &Path, uid: u32, gid: u32) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            continue;
        }
        if fs::metadata(entry.path())?.uid() != uid {
            chown(entry.path(), Some(uid), Some(gid))?;
        }
        if kind.is_dir() {
            give(&entry.path(), uid, gid)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_copied_once() {
        let dir = tempfile::tempdir().unwrap();
        let (source, webroot) = (dir.path().join("source"), dir.path().join("webroot"));
        fs::create_dir_all(source.join("sub")).unwrap();
        fs::create_dir_all(webroot.join("sub")).unwrap();
        fs::write(source.join("sub/page.html"), "first").unwrap();
        put(&source, &webroot).unwrap();
        assert_eq!(fs::read_to_string(webroot.join("sub/page.html")).unwrap(), "first");

        fs::write(source.join("sub/page.html"), "second").unwrap();
        put(&source, &webroot).unwrap();
        assert_eq!(fs::read_to_string(webroot.join("sub/page.html")).unwrap(), "first");
    }

    #[test]
    fn an_archive_is_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let (source, webroot) = (dir.path().join("site.tar.gz"), dir.path().join("webroot"));
        fs::create_dir(&webroot).unwrap();
        let gz =
            flate2::write::GzEncoder::new(fs::File::create(&source).unwrap(), flate2::Compression::fast());
        let mut archive = tar::Builder::new(gz);
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        archive.append_data(&mut header, "index.html", &b"page"[..]).unwrap();
        archive.into_inner().unwrap().finish().unwrap();
        put(&source, &webroot).unwrap();
        assert_eq!(fs::read_to_string(webroot.join("index.html")).unwrap(), "page");
    }
}
