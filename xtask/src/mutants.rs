//! `cargo xtask mutants`: breaks the delivery core's rules one after the other, and shows after how many schedules the model test notices.
//!
//! A mutant is a patch in `crates/lanes/mutants`, named like the mutant of `docs/model/lanes.py`. Its first lines begin with `#` and describe what it breaks. The command
//! copies the project to `target/mutants`, applies one patch at a time there, and runs the model test. A mutant that survives fails the command.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// Schedules for each mutant, unless the command line sets another number.
const SCHEDULES: u32 = 20_000;

/// A mutant that survives is played again with this many times as many schedules: some break only what several rare steps come to together.
const MORE_SCHEDULES: u32 = 10;

/// A run of the model test that takes longer is ended, in seconds. A mutant that can run for ever counts as noticed.
const DEADLINE_SECONDS: u32 = 900;

/// A build that takes longer is ended, in seconds: on a busy machine it takes its time.
const BUILD_DEADLINE_SECONDS: u32 = 3600;

/// The exit code of timeout(1) at its deadline.
const TIMED_OUT: i32 = 124;

/// What caught a mutant: the number of the schedule that failed in each mode, or examples.
#[derive(Debug, Default, PartialEq, Eq)]
struct Catch {
    one_box: Option<u32>,
    kafka: Option<u32>,
    /// Tests other than the random ones.
    examples: usize,
}

/// How a mutant's run ended.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The model test failed.
    Caught(Catch),
    /// The run didn't end within the deadline.
    Endless,
    Survived,
    /// The patch doesn't apply.
    Stale,
    /// The patched code doesn't compile.
    Uncompilable,
}

/// Runs the named mutants, or all. `--schedules N` sets the number of schedules for each.
///
/// # Errors
/// The options are wrong, the model test fails without a mutant, or a mutant survives, doesn't apply or doesn't compile.
pub fn run(options: &[&str]) -> Result<(), String> {
    let (schedules, names) = match options {
        ["--schedules", number, names @ ..] => (number.parse().map_err(|_| format!("--schedules {number:?}: expected a number"))?, names),
        names => (SCHEDULES, names),
    };
    let root = root()?;
    let patches = patches(&root, names)?;
    let tree = root.join("target/mutants");
    let test = |what: &str, schedules: u32| {
        println!("xtask: {what}, {schedules} schedules");
        test_model(&root, &tree, schedules)
    };
    copy(&root, &tree)?;
    match test("the model test without a mutant", schedules)? {
        Verdict::Survived => {}
        other => return Err(format!("the model test must pass without a mutant: {other:?}")),
    }
    let mut table = Vec::new();
    for patch in &patches {
        copy(&root, &tree)?;
        let name = patch.file_stem().map(|name| name.display().to_string()).ok_or("a patch has no name")?;
        let (began, applied) = (Instant::now(), apply(&tree, patch)?);
        let verdict = match applied {
            false => Verdict::Stale,
            true => match test(&name, schedules)? {
                Verdict::Survived => test(&name, schedules * MORE_SCHEDULES)?,
                noticed => noticed,
            },
        };
        println!("xtask: {name}: {verdict:?}, {:.0} s", began.elapsed().as_secs_f64());
        table.push((name, verdict, description(patch)?));
    }
    print(&table, schedules);
    let missed: Vec<&str> = table.iter().filter(|(_, verdict, _)| !is_noticed(verdict)).map(|(name, ..)| name.as_str()).collect();
    if missed.is_empty() { Ok(()) } else { Err(format!("not caught: {}", missed.join(", "))) }
}

fn is_noticed(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Caught(_) | Verdict::Endless)
}

fn print(table: &[(String, Verdict, String)], schedules: u32) {
    let more = schedules * MORE_SCHEDULES;
    println!("\nschedules until the model test fails, of {schedules} in each mode, or {more} where it passes those:\n");
    println!("| mutant | one box | Kafka | examples | what it breaks |\n|---|---|---|---|---|");
    for (name, verdict, description) in table {
        let number = |number: Option<u32>| number.map_or_else(|| "–".to_owned(), |number| number.to_string());
        let cells = match verdict {
            Verdict::Caught(Catch { one_box, kafka, examples }) => format!("{} | {} | {examples}", number(*one_box), number(*kafka)),
            Verdict::Endless => format!("no end within {DEADLINE_SECONDS} s | |"),
            Verdict::Survived => "**survives** | |".to_owned(),
            Verdict::Stale => "**the patch doesn't apply** | |".to_owned(),
            Verdict::Uncompilable => "**doesn't compile** | |".to_owned(),
        };
        println!("| `{name}` | {cells} | {description} |");
    }
}

// --- Patches

fn patches(root: &Path, names: &[&str]) -> Result<Vec<PathBuf>, String> {
    let folder = root.join("crates/lanes/mutants");
    let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let mut all: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|extension| extension == "patch")).collect();
    all.sort();
    let is_named = |path: &Path, name: &str| path.file_stem().is_some_and(|stem| stem == name);
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|path| is_named(path, name))) {
        return Err(format!("no mutant {unknown:?} in {}", folder.display()));
    }
    all.retain(|path| names.is_empty() || names.iter().any(|name| is_named(path, name)));
    Ok(all)
}

/// The lines that begin with `#`, as one.
fn description(patch: &Path) -> Result<String, String> {
    let text = fs::read_to_string(patch).map_err(|error| format!("{}: {error}", patch.display()))?;
    let lines = text.lines().map_while(|line| line.strip_prefix('#'));
    Ok(lines.map(str::trim).collect::<Vec<_>>().join(" "))
}

/// Returns whether the patch applies.
fn apply(tree: &Path, patch: &Path) -> Result<bool, String> {
    let mut git = Command::new("git");
    // The copy lies inside the repository, and isn't part of it.
    git.current_dir(tree).args(["apply", "--whitespace=nowarn"]).arg(patch).env("GIT_CEILING_DIRECTORIES", tree.parent().unwrap_or(tree));
    git.status().map(|status| status.success()).map_err(|error| format!("can't start git: {error}"))
}

// --- The copy

fn root() -> Result<PathBuf, String> {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().map(Path::to_owned).ok_or_else(|| "xtask lies in no workspace".to_owned())
}

/// Makes the copy equal to the project's files. An equal file keeps its time, so that cargo compiles only what has changed.
fn copy(root: &Path, tree: &Path) -> Result<(), String> {
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let files: BTreeSet<PathBuf> = files(root)?;
    for file in &files {
        let (from, to) = (root.join(file), tree.join(file));
        let wanted = fs::read(&from).map_err(|error| failed(&from, error))?;
        if fs::read(&to).is_ok_and(|present| present == wanted) {
            continue;
        }
        let folder = to.parent().ok_or_else(|| format!("{} has no folder", to.display()))?;
        fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
        fs::write(&to, wanted).map_err(|error| failed(&to, error))?;
    }
    remove_others(tree, tree, &files)
}

/// The project's files: those that git tracks, and new ones that it doesn't ignore.
fn files(root: &Path) -> Result<BTreeSet<PathBuf>, String> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let output = git.output().map_err(|error| format!("can't start git: {error}"))?;
    if !output.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let names = String::from_utf8(output.stdout).map_err(|error| format!("git ls-files: {error}"))?;
    Ok(names.split('\0').filter(|name| !name.is_empty() && root.join(name).is_file()).map(PathBuf::from).collect())
}

/// Removes what a patch has added.
fn remove_others(tree: &Path, folder: &Path, files: &BTreeSet<PathBuf>) -> Result<(), String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        let file = path.strip_prefix(tree).map_err(|error| error.to_string())?;
        if path.is_dir() {
            remove_others(tree, &path, files)?;
        } else if !files.contains(file) {
            fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}

// --- The model test

/// The tests of the core.
const TEST: [&str; 5] = ["test", "--quiet", "--locked", "--package=pushline-lanes", "--lib"];

/// Runs the model test in the copy, and the examples of the core's edges. The copy has a target folder of its own: cargo takes equal paths of two workspaces for the same crate, and a mutant must not get into
/// the project's builds.
fn test_model(root: &Path, tree: &Path, schedules: u32) -> Result<Verdict, String> {
    let target = root.join("target/mutants-build");
    let cargo = |deadline: u32, options: &[&str]| {
        let mut command = Command::new("timeout");
        command.arg(deadline.to_string()).arg("cargo").args(TEST).args(options).current_dir(tree);
        command.env("CARGO_TARGET_DIR", &target).env("MODEL_SCHEDULES", schedules.to_string());
        // The number of the schedule is wanted, and not its smallest form.
        command.env("PROPTEST_MAX_SHRINK_ITERS", "0");
        command.output().map_err(|error| format!("can't start timeout: {error}"))
    };
    let mut build = cargo(BUILD_DEADLINE_SECONDS, &["--no-run"])?;
    if !build.status.success() {
        // A build that was ended in its middle leaves an incremental cache whose parts don't link.
        let _ = fs::remove_dir_all(target.join("debug/incremental"));
        build = cargo(BUILD_DEADLINE_SECONDS, &["--no-run"])?;
    }
    if !build.status.success() {
        println!("{}: {}", build.status, String::from_utf8_lossy(&build.stderr).trim());
        return Ok(Verdict::Uncompilable);
    }
    let output = cargo(DEADLINE_SECONDS, &["--", "model_test", "edge_test"])?;
    if output.status.success() {
        return Ok(Verdict::Survived);
    }
    if output.status.code() == Some(TIMED_OUT) {
        return Ok(Verdict::Endless);
    }
    Ok(Verdict::Caught(catch(&String::from_utf8_lossy(&output.stdout))))
}

/// Reads what failed from the output of the tests. Each failed test has a section `---- name stdout ----`; a random one prints `schedule` and the number of the
/// schedule that failed.
fn catch(output: &str) -> Catch {
    let mut catch = Catch::default();
    for section in output.split("\n---- ").skip(1) {
        let name = section.split_whitespace().next().unwrap_or_default();
        match first_schedule(section) {
            Some(number) if name.contains("horizon") => catch.one_box = Some(number),
            Some(number) if name.contains("ticks") => catch.kafka = Some(number),
            _ => catch.examples += 1,
        }
    }
    catch
}

/// The number behind the first word `schedule` that has one.
fn first_schedule(output: &str) -> Option<u32> {
    let mut behind = output.split("schedule ").skip(1);
    behind.find_map(|rest| rest.split(|letter: char| !letter.is_ascii_digit()).next().filter(|number| !number.is_empty())?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_read_from_the_output_of_the_tests() {
        let output = "running 3 tests\n\nfailures:\n\n---- a::with_a_horizon_all_settle stdout ----\nthe first schedule fails\nschedule 17: two ids\n\
            schedule 20: two ids\n\n---- a::with_ticks_all_settle stdout ----\nschedule 3: lost\n\n---- a::an_example stdout ----\nleft != right\n";
        assert_eq!(catch(output), Catch { one_box: Some(17), kafka: Some(3), examples: 1 });
    }

    #[test]
    fn only_a_mutant_that_was_noticed_passes() {
        assert!(is_noticed(&Verdict::Caught(Catch::default())) && is_noticed(&Verdict::Endless));
        assert!(!is_noticed(&Verdict::Survived) && !is_noticed(&Verdict::Stale) && !is_noticed(&Verdict::Uncompilable));
    }
}
