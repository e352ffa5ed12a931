//! `include = ["conf.d/*.toml"]`: which files that means. `*` and `?` stand for parts of one name, in any folder of the
//! path; a pattern may match nothing, but the folders it looks into must exist. Hidden files are not matched.

use std::io;
use std::path::{Component, Path, PathBuf};

/// The files that match, sorted by name; and the folders that were looked into.
pub struct Found {
    pub files: Vec<PathBuf>,
    pub folders: Vec<PathBuf>,
}

/// Whether the last word is left to what is on the disk.
pub fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?'])
}

pub fn find(folder: &Path, pattern: &str) -> Result<Found, (PathBuf, io::Error)> {
    let mut found = Found { files: vec![folder.to_path_buf()], folders: vec![] };
    let parts: Vec<_> = Path::new(pattern).components().collect();
    for (i, part) in parts.iter().enumerate() {
        let last = i + 1 == parts.len();
        match part {
            Component::Normal(name) if is_pattern(&name.to_string_lossy()) => {
                let mut next = vec![];
                for dir in std::mem::take(&mut found.files) {
                    // an empty path is the folder we are in
                    let open = if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir.clone() };
                    let mut names = names(&open, &name.to_string_lossy()).map_err(|e| (open.clone(), e))?;
                    names.sort();
                    next.extend(names.into_iter().map(|n| dir.join(n)).filter(|p| p.is_dir() != last));
                    found.folders.push(open);
                }
                found.files = next;
            }
            part => found.files.iter_mut().for_each(|f| f.push(part)),
        }
    }
    if is_pattern(pattern) {
        found.files.retain(|f| f.exists());
    }
    Ok(found)
}

fn names(dir: &Path, pattern: &str) -> io::Result<Vec<String>> {
    let mut names = vec![];
    for entry in std::fs::read_dir(dir)? {
        if let Ok(name) = entry?.file_name().into_string()
            && name.starts_with('.') == pattern.starts_with('.')
            && matches(pattern, &name)
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// `*` is any text, `?` any one character. On a mismatch only the last `*` takes one more, so time is bounded.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                n = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".toml", true),
            ("*.toml", "a.toml.bak", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("**", "", true),
            ("x", "x", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
