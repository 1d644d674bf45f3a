//! The modules are layers: a folder of the SDK imports only layers below it, and the modules of one
//! folder do not import each other in a circle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use syn::{
    UseTree,
    visit::{self, Visit},
};

/// The layers of `authpi-sdk/src`, from the lowest. Modules of one layer do not import each other.
const LAYERS: &[&[&str]] = &[
    &[
        "time",
        "hex",
        "files",
        "crash",
        "telemetry",
        "backoff",
        "macros",
    ],
    &["json"],
    &["event"],
    &["signature", "ledger"],
    &["stores"],
    &["handlers"],
    &["receiver", "client", "testing"],
    &["worker", "endpoint"],
    &["reconcile", "unstable"],
];
/// Generated code is part of the layers `event` and `client`: it uses their types, and they use it.
const GENERATED: &str = "generated";
/// Crates that the lower layers must not use.
const EDGE_CRATES: &[&str] = &[
    "axum",
    "axum_core",
    "hyper",
    "progenitor_client",
    "reqwest",
    "tower_service",
];
const LOWER_LAYERS: &[&str] = &["event", "signature", "ledger"];

/// Modules that need each other by their nature. A call may need the account, and `account.rs` finds
/// it by a call.
const RECURSIVE: &[(&str, &str)] = &[("account", "call")];

#[test]
fn a_layer_imports_only_layers_below_it() {
    let sdk = Modules::of("authpi-sdk");
    let height = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    let mut violations = Vec::new();
    for name in sdk.children(&[]) {
        if name != GENERATED && name != "guide" && height(&name).is_none() {
            violations.push(format!("{name} is in no layer; add it to LAYERS"));
        }
    }
    for (from, to) in sdk.imports_between_siblings(&[]) {
        if let (Some(importer), Some(imported)) = (height(&from), height(&to))
            && imported >= importer
        {
            violations.push(format!("{from} imports {to}"));
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn lower_layers_use_no_web_framework_and_no_http_client() {
    let sdk = Modules::of("authpi-sdk");
    let mut violations = Vec::new();
    for (path, module) in &sdk.0 {
        if path
            .first()
            .is_some_and(|name| LOWER_LAYERS.contains(&name.as_str()))
        {
            let used = module.paths.iter().map(|path| path[0].as_str());
            violations.extend(
                used.filter(|name| EDGE_CRATES.contains(name))
                    .map(|name| format!("{} uses {name}", path.join("::"))),
            );
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn modules_of_one_folder_import_each_other_in_no_circle() {
    let mut circles = Vec::new();
    for package in ["authpi-sdk", "authpi-inspector", "authpi-emulator"] {
        let modules = Modules::of(package);
        for folder in modules.0.keys() {
            let mut imports = modules.imports_between_siblings(folder);
            imports.retain(|(from, to)| !RECURSIVE.contains(&(from, to)));
            circles.extend(
                circle_in(&imports).map(|circle| {
                    format!("{package}/{}: {}", folder.join("/"), circle.join(" -> "))
                }),
            );
        }
        assert!(circles.is_empty(), "{circles:#?}");
    }
}

#[test]
fn a_circle_of_imports_is_found() {
    let imports = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(from, to)| ((*from).to_owned(), (*to).to_owned()))
            .collect()
    };
    assert_eq!(
        circle_in(&imports(&[("a", "b"), ("b", "c"), ("a", "c")])),
        None
    );
    assert_eq!(
        circle_in(&imports(&[("a", "b"), ("b", "c"), ("c", "b")])),
        Some(["b", "c", "b"].map(str::to_owned).to_vec())
    );
}

/// The first circle among these imports, if any: names from a module back to itself.
fn circle_in(imports: &BTreeSet<(String, String)>) -> Option<Vec<String>> {
    fn visit(
        name: &str,
        imports: &BTreeSet<(String, String)>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|known| known == name) {
            let mut circle = path.split_off(start);
            circle.push(name.to_owned());
            return Some(circle);
        }
        if !done.insert(name.to_owned()) {
            return None;
        }
        path.push(name.to_owned());
        for (_, to) in imports.iter().filter(|(from, _)| from == name) {
            let circle = visit(to, imports, path, done);
            if circle.is_some() {
                return circle;
            }
        }
        path.pop();
        None
    }
    let mut done = BTreeSet::new();
    imports
        .iter()
        .find_map(|(from, _)| visit(from, imports, &mut Vec::new(), &mut done))
}

type ModulePath = Vec<String>;

/// The modules of one package, by path; the root is the empty path. Test modules are left out.
struct Modules(BTreeMap<ModulePath, Module>);

#[derive(Default)]
struct Module {
    /// The paths that the module uses, each with its first segment: a crate, `crate`, `self`,
    /// `super` or a local name.
    paths: Vec<Vec<String>>,
    /// The names that the module imports or re-exports, with their paths.
    imported: BTreeMap<String, Vec<String>>,
}

impl Modules {
    fn of(package: &str) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .with_file_name(package)
            .join("src");
        let mut modules = Self(BTreeMap::new());
        modules.read(&source, &[]);
        assert!(modules.0.len() > 8, "{package}/src has lost its modules");
        modules
    }

    fn read(&mut self, folder: &Path, parent: &[String]) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let is_test = name == "tests" || name == "main";
            let child = || [parent, std::slice::from_ref(&name)].concat();
            if path.is_dir() && !is_test {
                self.read(&path, &child());
            } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test {
                let text = fs::read_to_string(&path).unwrap();
                let file = syn::parse_file(&text)
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let mut module = Module::default();
                module.visit_file(&file);
                let own = if name == "mod" || name == "lib" {
                    parent.to_vec()
                } else {
                    child()
                };
                self.0.insert(own, module);
            }
        }
    }

    fn children(&self, folder: &[String]) -> BTreeSet<String> {
        self.0
            .keys()
            .filter(|path| path.starts_with(folder))
            .filter_map(|path| path.get(folder.len()).cloned())
            .collect()
    }

    /// Which child modules of the folder import which others, at any depth.
    fn imports_between_siblings(&self, folder: &[String]) -> BTreeSet<(String, String)> {
        let depth = folder.len();
        let mut imports = BTreeSet::new();
        for (path, module) in &self.0 {
            if !path.starts_with(folder) || path.len() == depth {
                continue;
            }
            for used in &module.paths {
                if let Some(to) = self.module_of(path, used, 0)
                    && to.starts_with(folder)
                    && to.len() > depth
                    && to[depth] != path[depth]
                    && ![&to[depth], &path[depth]].contains(&&GENERATED.to_owned())
                {
                    imports.insert((path[depth].clone(), to[depth].clone()));
                }
            }
        }
        imports
    }

    /// The module in which the path's item is defined; none if the path is of another crate.
    fn module_of(&self, from: &[String], path: &[String], followed: usize) -> Option<ModulePath> {
        let mut module = from.to_vec();
        let mut rest = path;
        let mut is_local = false;
        while let Some(first) = rest.first() {
            match first.as_str() {
                "crate" => module.clear(),
                "super" => drop(module.pop()),
                "self" => {}
                _ => break,
            }
            is_local = true;
            rest = &rest[1..];
        }
        while let Some(first) = rest.first() {
            let child = [module.as_slice(), std::slice::from_ref(first)].concat();
            let imported = self.0.get(&module).and_then(|it| it.imported.get(first));
            if self.0.contains_key(&child) {
                module = child;
            } else if let Some(imported) = imported.filter(|_| is_local && followed < 8) {
                let target = [imported.as_slice(), &rest[1..]].concat();
                return self.module_of(&module, &target, followed + 1);
            } else {
                break;
            }
            is_local = true;
            rest = &rest[1..];
        }
        is_local.then_some(module)
    }
}

impl Module {
    fn add_imports(&mut self, tree: &UseTree, prefix: &[String]) {
        let joined = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.add_imports(&path.tree, &joined(&path.ident)),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_imports(tree, prefix);
                }
            }
            UseTree::Name(name) => self.add_import(name.ident.to_string(), joined(&name.ident)),
            UseTree::Rename(name) => self.add_import(name.rename.to_string(), joined(&name.ident)),
            UseTree::Glob(_) => self.paths.push(prefix.to_vec()),
        }
    }

    fn add_import(&mut self, name: String, path: Vec<String>) {
        self.paths.push(path.clone());
        self.imported.insert(name, path);
    }
}

impl<'ast> Visit<'ast> for Module {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_imports(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter();
        self.paths
            .push(segments.map(|part| part.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    /// Leaves out unit tests in the same file.
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if module.ident != "tests" {
            visit::visit_item_mod(self, module);
        }
    }
}
