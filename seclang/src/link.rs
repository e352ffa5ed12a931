//! Rules as written to a program: chains joined, defaults applied, exclusions placed, markers turned into positions, the
//! names of `TX` turned into slots.
//!
//! A program is immutable and shared; what depends on a route (paranoia, thresholds, methods) is set on top of it by an
//! `Engine`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::operators::Operator;
use crate::parse::{
    self, Action, Assign, Change, Ctl, CtlTarget, Directive, Disruptive, EngineMode, LimitAction, LoadError, Loader,
    Macro, MacroName, Piece, Place, RuleText, Source,
};
use crate::transform::Transform;
use crate::vars::{Selector, Target, Var};

/// `TX:0` to `TX:9`, what captures fill, are the first slots.
pub const CAPTURE_SLOTS: usize = 10;
/// More rules than this is not a rule set.
const RULE_LIMIT: usize = 100_000;

/// All rules, ready to run.
#[derive(Debug)]
pub struct Program {
    pub rules: Vec<Rule>,
    /// Per phase (0 to 4): the rules in file order.
    pub phases: [Vec<u32>; 5],
    pub names: Names,
    pub options: Options,
    pub warnings: Vec<String>,
}

/// What the configuration directives say.
#[derive(Debug, Clone)]
pub struct Options {
    pub engine: EngineMode,
    pub request_body: bool,
    pub response_body: bool,
    pub request_body_limit: usize,
    pub limit_action: LimitAction,
    pub response_body_limit: usize,
    /// Response types whose bodies are looked at; empty means all.
    pub response_types: Vec<String>,
    pub arguments_limit: usize,
    pub json_depth: usize,
    pub separator: u8,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            engine: EngineMode::On,
            request_body: true,
            response_body: false,
            request_body_limit: 1 << 20,
            limit_action: LimitAction::Reject,
            response_body_limit: 512 << 10,
            response_types: Vec::new(),
            arguments_limit: 1000,
            json_depth: 32,
            separator: b'&',
        }
    }
}

/// The names of the `TX` collection, in lower case.
#[derive(Debug, Default)]
pub struct Names {
    list: Vec<Vec<u8>>,
    index: HashMap<Vec<u8>, u32>,
}

impl Names {
    fn slot(&mut self, name: &[u8]) -> u32 {
        let name = name.to_ascii_lowercase();
        if let Some(slot) = self.index.get(&name) {
            return *slot;
        }
        let slot = self.list.len() as u32;
        self.list.push(name.clone());
        self.index.insert(name, slot);
        slot
    }

    pub fn find(&self, name: &[u8]) -> Option<u32> {
        self.index.get(&name.to_ascii_lowercase()).copied()
    }

    pub fn name(&self, slot: u32) -> &[u8] {
        &self.list[slot as usize]
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

#[derive(Debug)]
pub struct Rule {
    pub id: u64,
    pub place: Place,
    /// 0 to 4.
    pub phase: usize,
    pub links: Vec<Link>,
    pub disruptive: Disruptive,
    pub status: Option<u16>,
    pub log: bool,
    pub msg: Option<Template>,
    pub logdata: Option<Template>,
    pub severity: Option<u8>,
    pub tags: Vec<String>,
    pub ver: String,
    /// From the tag `paranoia-level/N`; 0 if there is none.
    pub paranoia: u8,
    /// After a match, go on at this position of the phase.
    pub skip_to: Option<u32>,
    /// This rule's position in its phase.
    pub position: u32,
}

/// One `SecRule` of a chain; most rules have just one.
#[derive(Debug)]
pub struct Link {
    pub targets: Vec<Look>,
    pub excluded: Vec<Look>,
    pub op: Operator,
    pub argument: Option<Template>,
    pub negated: bool,
    pub transforms: Vec<Transform>,
    pub capture: bool,
    pub multi_match: bool,
    pub effects: Vec<Effect>,
}

/// A target with its `TX` name resolved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Look {
    pub var: Var,
    pub key: Key,
    pub count: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    All,
    Slot(u32),
    Some(Selector),
}

impl Look {
    /// Whether, as an exclusion, it takes a value of `var` under `key` away.
    pub fn covers(&self, var: Var, key: &[u8]) -> bool {
        let same = self.var == var
            || matches!(
                (self.var, var),
                (Var::Args, Var::ArgsGet | Var::ArgsPost) | (Var::ArgsNames, Var::ArgsGetNames | Var::ArgsPostNames)
            );
        same && match &self.key {
            Key::All => true,
            Key::Slot(_) => false,
            Key::Some(selector) => selector.holds(key),
        }
    }
}

/// Text with holes, holes resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Text(Vec<u8>),
    Slot(u32),
    Value(Look),
    RuleId,
    RuleMsg,
    RuleSeverity,
    RuleLogData,
}

impl Template {
    pub fn constant(&self) -> Option<&[u8]> {
        match self.0.as_slice() {
            [] => Some(b""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
}

/// What a matching link does besides matching.
#[derive(Debug)]
pub enum Effect {
    Set { var: Var, name: SetName, change: SetChange },
    Engine(EngineMode),
    RemoveRules(Arc<[u32]>),
    RemoveTarget(Arc<[u32]>, Look),
    BodyProcessor(String),
    ForceBodyVariable(bool),
    RequestBodyAccess(bool),
    ResponseBodyAccess(bool),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetName {
    Slot(u32),
    Dynamic(Template),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetChange {
    Set(Template),
    Add(Template),
    Subtract(Template),
    Unset,
}

impl Program {
    /// Reads one text.
    pub fn parse(file: &str, text: &str, loader: &dyn Loader) -> Result<Program, LoadError> {
        let mut source = Source::new();
        source.read(file, text, loader)?;
        Program::link(source)
    }

    pub fn link(source: Source) -> Result<Program, LoadError> {
        Linker::new(source.warnings).run(source.items)
    }

    /// The rules of an id (one, or none).
    pub fn rule(&self, id: u64) -> Option<&Rule> {
        self.rules.iter().find(|r| r.id == id)
    }
}

/// A rule while its chain is being read.
struct Draft {
    place: Place,
    links: Vec<(Place, RuleText)>,
    /// The default actions in force where the rule stands.
    defaults: Arc<Defaults>,
    open: bool,
}

#[derive(Default, Clone)]
struct Defaults([Option<Vec<Action>>; 5]);

enum Entry {
    Rule(usize),
    Marker(String),
}

struct Linker {
    names: Names,
    options: Options,
    warnings: Vec<String>,
    drafts: Vec<Draft>,
    order: Vec<Entry>,
    updates: Vec<(Place, Directive)>,
}

impl Linker {
    fn new(warnings: Vec<String>) -> Self {
        let mut names = Names::default();
        for i in 0..CAPTURE_SLOTS {
            names.slot(i.to_string().as_bytes());
        }
        Linker {
            names,
            options: Options::default(),
            warnings,
            drafts: Vec::new(),
            order: Vec::new(),
            updates: Vec::new(),
        }
    }

    fn run(mut self, items: Vec<parse::Item>) -> Result<Program, LoadError> {
        let mut defaults = Arc::new(Defaults::default());
        for item in items {
            match item.directive {
                Directive::Rule(text) => self.rule(item.place, *text, &defaults)?,
                Directive::Marker(name) => self.order.push(Entry::Marker(name)),
                Directive::DefaultAction(actions) => {
                    let phase = phase_of(&actions).unwrap_or(1);
                    Arc::make_mut(&mut defaults).0[phase] = Some(actions);
                }
                directive => self.option(item.place, directive),
            }
        }
        if let Some(draft) = self.drafts.iter().find(|d| d.open) {
            return Err(LoadError::new(&draft.place, "chain: found no rule after it"));
        }
        self.update_texts()?;
        self.build()
    }

    fn rule(&mut self, place: Place, text: RuleText, defaults: &Arc<Defaults>) -> Result<(), LoadError> {
        let chain = text.actions.contains(&Action::Chain);
        if let Some(draft) = self.drafts.last_mut().filter(|d| d.open) {
            if text.actions.iter().any(|a| matches!(a, Action::Id(_) | Action::Phase(_) | Action::SkipAfter(_))) {
                return Err(LoadError::new(&place, "a rule inside a chain has no id, phase or skipAfter of its own"));
            }
            draft.links.push((place, text));
            draft.open = chain;
            return Ok(());
        }
        if self.drafts.len() >= RULE_LIMIT {
            return Err(LoadError::new(&place, format!("more than {RULE_LIMIT} rules")));
        }
        self.order.push(Entry::Rule(self.drafts.len()));
        let defaults = defaults.clone();
        self.drafts.push(Draft { place: place.clone(), links: vec![(place, text)], defaults, open: chain });
        Ok(())
    }

    fn option(&mut self, place: Place, directive: Directive) {
        let o = &mut self.options;
        match directive {
            Directive::Engine(mode) => o.engine = mode,
            Directive::RequestBodyAccess(on) => o.request_body = on,
            Directive::ResponseBodyAccess(on) => o.response_body = on,
            Directive::RequestBodyLimit(n) => o.request_body_limit = n as usize,
            Directive::RequestBodyLimitAction(action) => o.limit_action = action,
            Directive::ResponseBodyLimit(n) => o.response_body_limit = n as usize,
            Directive::ResponseBodyMimeType(types) => o.response_types = types,
            Directive::ArgumentsLimit(n) => o.arguments_limit = n as usize,
            Directive::JsonDepthLimit(n) => o.json_depth = n as usize,
            Directive::ArgumentSeparator(b) => o.separator = b,
            other => self.updates.push((place, other)),
        }
    }

    /// `SecRuleRemove…`, `SecRuleUpdate…`: applied wherever they stand, because an exclusion that is silently too early
    /// helps nobody.
    fn update_texts(&mut self) -> Result<(), LoadError> {
        for (place, update) in std::mem::take(&mut self.updates) {
            let chosen = self.chosen(&update);
            if chosen.is_empty() {
                self.warnings.push(format!("{place}: no rule is meant by this"));
            }
            match update {
                Directive::RemoveById(_) | Directive::RemoveByTag(_) | Directive::RemoveByMsg(_) => {
                    self.order.retain(|e| !matches!(e, Entry::Rule(i) if chosen.contains(i)));
                }
                Directive::UpdateTargetById(_, targets)
                | Directive::UpdateTargetByTag(_, targets)
                | Directive::UpdateTargetByMsg(_, targets) => {
                    let (more, excluded) =
                        parse::parse_targets(&targets).map_err(|reason| LoadError::new(&place, reason))?;
                    for i in chosen {
                        let head = &mut self.drafts[i].links[0].1;
                        head.targets.extend(more.iter().cloned());
                        head.excluded.extend(excluded.iter().cloned());
                    }
                }
                Directive::UpdateActionById(_, link, actions) => {
                    for i in chosen {
                        let links = &mut self.drafts[i].links;
                        let at = link.unwrap_or(0);
                        let Some((_, text)) = links.get_mut(at) else {
                            return Err(LoadError::new(&place, format!("this chain has no link {at}")));
                        };
                        update_actions(&mut text.actions, &actions);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn chosen(&self, update: &Directive) -> Vec<usize> {
        let by = |test: &dyn Fn(&Draft) -> bool| -> Vec<usize> {
            self.drafts.iter().enumerate().filter(|(_, d)| test(d)).map(|(i, _)| i).collect()
        };
        match update {
            Directive::RemoveById(s) | Directive::UpdateTargetById(s, _) => {
                by(&|d| id_of(d).is_some_and(|id| s.holds(id)))
            }
            Directive::RemoveByTag(tag) | Directive::UpdateTargetByTag(tag, _) => {
                let wanted = Wanted::new(tag);
                by(&|d| wanted.tags(d))
            }
            Directive::RemoveByMsg(msg) | Directive::UpdateTargetByMsg(msg, _) => {
                let wanted = Wanted::new(msg);
                by(&|d| wanted.says(d))
            }
            Directive::UpdateActionById(id, ..) => by(&|d| id_of(d) == Some(*id)),
            _ => Vec::new(),
        }
    }

    fn build(mut self) -> Result<Program, LoadError> {
        let mut seen: HashMap<u64, Place> = HashMap::new();
        let order = std::mem::take(&mut self.order);
        // Positions first: `ctl` and `skipAfter` refer to rules by them.
        let mut number = HashMap::new();
        for entry in &order {
            if let Entry::Rule(draft) = entry {
                number.insert(*draft, number.len() as u32);
            }
        }
        let mut phases: [Vec<u32>; 5] = Default::default();
        let mut markers: HashMap<String, [u32; 5]> = HashMap::new();
        let mut rules = Vec::new();
        for entry in &order {
            match entry {
                Entry::Marker(name) => {
                    let at = std::array::from_fn(|p| phases[p].len() as u32);
                    markers.insert(name.clone(), at);
                }
                Entry::Rule(draft) => {
                    let rule = self.compile(*draft, &number)?;
                    if let Some(id) = (rule.id != 0).then_some(rule.id)
                        && let Some(first) = seen.insert(id, rule.place.clone())
                    {
                        return Err(LoadError::new(&rule.place, format!("rule id {id} stands at {first} already")));
                    }
                    phases[rule.phase].push(rules.len() as u32);
                    rules.push(rule);
                }
            }
        }
        self.resolve_skips(&mut rules, &phases, &markers, &number)?;
        Ok(Program { rules, phases, names: self.names, options: self.options, warnings: self.warnings })
    }

    fn resolve_skips(
        &self,
        rules: &mut [Rule],
        phases: &[Vec<u32>; 5],
        markers: &HashMap<String, [u32; 5]>,
        number: &HashMap<usize, u32>,
    ) -> Result<(), LoadError> {
        for list in phases {
            for (position, index) in list.iter().enumerate() {
                rules[*index as usize].position = position as u32;
            }
        }
        for (draft, index) in number {
            let rule = &mut rules[*index as usize];
            for action in self.drafts[*draft].links[0].1.actions.iter() {
                match action {
                    Action::Skip(n) => rule.skip_to = Some(rule.position.saturating_add(1).saturating_add(*n)),
                    Action::SkipAfter(name) => {
                        let to = markers.get(name).map(|at| at[rule.phase]).filter(|at| *at > rule.position);
                        let Some(to) = to else {
                            return Err(LoadError::new(
                                &rule.place,
                                format!("skipAfter {name:?}: no such marker below"),
                            ));
                        };
                        rule.skip_to = Some(to);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn compile(&mut self, draft: usize, number: &HashMap<usize, u32>) -> Result<Rule, LoadError> {
        let texts = std::mem::take(&mut self.drafts[draft].links);
        let result = self.compile_links(draft, &texts, number);
        self.drafts[draft].links = texts;
        result
    }

    fn compile_links(
        &mut self,
        draft: usize,
        texts: &[(Place, RuleText)],
        number: &HashMap<usize, u32>,
    ) -> Result<Rule, LoadError> {
        let (place, head) = &texts[0];
        let defaults = self.drafts[draft].defaults.clone();
        let phase = phase_of(&head.actions).unwrap_or(1);
        let fallback: &[Action] = defaults.0[phase].as_deref().unwrap_or(&[]);
        let mut rule = Rule {
            id: 0,
            place: place.clone(),
            phase,
            links: Vec::with_capacity(texts.len()),
            disruptive: Disruptive::Pass,
            status: None,
            log: true,
            msg: None,
            logdata: None,
            severity: None,
            tags: Vec::new(),
            ver: String::new(),
            paranoia: 0,
            skip_to: None,
            position: 0,
        };
        for action in fallback.iter().chain(&head.actions) {
            self.head_action(&mut rule, action, fallback);
        }
        if rule.id == 0 {
            return Err(LoadError::new(place, "this rule has no id"));
        }
        for (place, text) in texts {
            let link = self.compile_link(text, fallback, number).map_err(|reason| LoadError::new(place, reason))?;
            rule.links.push(link);
            // A child may carry the message (CRS 3) when the head has none.
            for action in &text.actions {
                match action {
                    Action::Msg(m) if rule.msg.is_none() => rule.msg = Some(self.template(m)),
                    Action::LogData(m) if rule.logdata.is_none() => rule.logdata = Some(self.template(m)),
                    Action::Severity(s) if rule.severity.is_none() => rule.severity = Some(*s),
                    _ => {}
                }
            }
        }
        Ok(rule)
    }

    fn head_action(&mut self, rule: &mut Rule, action: &Action, fallback: &[Action]) {
        match action {
            Action::Id(id) => rule.id = *id,
            Action::Msg(m) => rule.msg = Some(self.template(m)),
            Action::LogData(m) => rule.logdata = Some(self.template(m)),
            Action::Severity(s) => rule.severity = Some(*s),
            Action::Status(s) => rule.status = Some(*s),
            Action::Log(on) => rule.log = *on,
            Action::Ver(v) => rule.ver = v.clone(),
            Action::Tag(tag) => {
                if let Some(n) = tag.strip_prefix("paranoia-level/").and_then(|n| n.parse().ok()) {
                    rule.paranoia = n;
                }
                rule.tags.push(tag.clone());
            }
            // `block` means: what the default action of this phase says.
            Action::Disruptive(Disruptive::Block) => {
                rule.disruptive = fallback
                    .iter()
                    .rev()
                    .find_map(|a| match a {
                        Action::Disruptive(d) => Some(*d),
                        _ => None,
                    })
                    .unwrap_or(Disruptive::Pass);
            }
            Action::Disruptive(d) => rule.disruptive = *d,
            _ => {}
        }
    }

    fn compile_link(
        &mut self,
        text: &RuleText,
        fallback: &[Action],
        number: &HashMap<usize, u32>,
    ) -> Result<Link, String> {
        let op = match &text.operator {
            Some(spec) => Operator::build(spec)?,
            None => Operator::Always,
        };
        let argument = op.argument().cloned().map(|m| self.template(&m));
        let mut transforms = Vec::new();
        let mut effects = Vec::new();
        let defaults = fallback.iter().filter(|a| matches!(a, Action::Transform(_)));
        for action in defaults.chain(&text.actions) {
            match action {
                Action::Transform(None) => transforms.clear(),
                Action::Transform(Some(t)) => transforms.push(*t),
                Action::SetVar(assign) => effects.push(self.assign(assign)),
                Action::Ctl(ctl) => effects.extend(self.ctl(ctl, number)),
                _ => {}
            }
        }
        Ok(Link {
            targets: text.targets.iter().map(|t| self.look(t)).collect(),
            excluded: text.excluded.iter().map(|t| self.look(t)).collect(),
            op,
            argument,
            negated: text.operator.as_ref().is_some_and(|o| o.negated),
            transforms,
            capture: text.actions.contains(&Action::Capture),
            multi_match: text.actions.contains(&Action::MultiMatch),
            effects,
        })
    }

    fn look(&mut self, target: &Target) -> Look {
        let key = match (&target.selector, target.var) {
            (Selector::All, _) => Key::All,
            (Selector::Key(name), Var::Tx) => Key::Slot(self.names.slot(name)),
            (selector, _) => Key::Some(selector.clone()),
        };
        Look { var: target.var, key, count: target.count }
    }

    fn template(&mut self, text: &Macro) -> Template {
        let part = |piece: &Piece| match piece {
            Piece::Text(text) => Part::Text(text.clone().into_bytes()),
            Piece::Name(MacroName::RuleId) => Part::RuleId,
            Piece::Name(MacroName::RuleMsg) => Part::RuleMsg,
            Piece::Name(MacroName::RuleSeverity) => Part::RuleSeverity,
            Piece::Name(MacroName::RuleLogData) => Part::RuleLogData,
            Piece::Name(MacroName::Value(target)) => match self.look(target) {
                Look { var: Var::Tx, key: Key::Slot(slot), .. } => Part::Slot(slot),
                look => Part::Value(look),
            },
        };
        Template(text.0.iter().map(part).collect())
    }

    fn assign(&mut self, assign: &Assign) -> Effect {
        let name = match (assign.var, assign.name.constant()) {
            (Var::Tx, Some(name)) => SetName::Slot(self.names.slot(name.as_bytes())),
            _ => SetName::Dynamic(self.template(&assign.name)),
        };
        let change = match &assign.change {
            Change::Set(m) => SetChange::Set(self.template(m)),
            Change::Add(m) => SetChange::Add(self.template(m)),
            Change::Subtract(m) => SetChange::Subtract(self.template(m)),
            Change::Unset => SetChange::Unset,
        };
        Effect::Set { var: assign.var, name, change }
    }

    fn ctl(&mut self, ctl: &Ctl, number: &HashMap<usize, u32>) -> Option<Effect> {
        Some(match ctl {
            Ctl::Engine(mode) => Effect::Engine(*mode),
            Ctl::RemoveById(s) => Effect::RemoveRules(self.numbers(number, |d| id_of(d).is_some_and(|id| s.holds(id)))),
            Ctl::RemoveByTag(tag) => {
                let wanted = Wanted::new(tag);
                Effect::RemoveRules(self.numbers(number, |d| wanted.tags(d)))
            }
            Ctl::RemoveByMsg(msg) => {
                let wanted = Wanted::new(msg);
                Effect::RemoveRules(self.numbers(number, |d| wanted.says(d)))
            }
            Ctl::RemoveTarget(which, target) => {
                let list = match which {
                    CtlTarget::Id(s) => self.numbers(number, |d| id_of(d).is_some_and(|id| s.holds(id))),
                    CtlTarget::Tag(tag) => {
                        let wanted = Wanted::new(tag);
                        self.numbers(number, |d| wanted.tags(d))
                    }
                    CtlTarget::Msg(msg) => {
                        let wanted = Wanted::new(msg);
                        self.numbers(number, |d| wanted.says(d))
                    }
                };
                Effect::RemoveTarget(list, self.look(target))
            }
            Ctl::BodyProcessor(name) => Effect::BodyProcessor(name.clone()),
            Ctl::ForceBodyVariable(on) => Effect::ForceBodyVariable(*on),
            Ctl::RequestBodyAccess(on) => Effect::RequestBodyAccess(*on),
            Ctl::ResponseBodyAccess(on) => Effect::ResponseBodyAccess(*on),
            Ctl::Ignored => return None,
        })
    }

    /// The numbers of the rules that pass a test, in order.
    fn numbers(&self, number: &HashMap<usize, u32>, test: impl Fn(&Draft) -> bool) -> Arc<[u32]> {
        let mut list: Vec<u32> = number.iter().filter(|(d, _)| test(&self.drafts[**d])).map(|(_, n)| *n).collect();
        list.sort_unstable();
        list.into()
    }
}

fn phase_of(actions: &[Action]) -> Option<usize> {
    actions.iter().find_map(|a| match a {
        Action::Phase(p) => Some(usize::from(*p) - 1),
        _ => None,
    })
}

fn id_of(draft: &Draft) -> Option<u64> {
    draft.links.first()?.1.actions.iter().find_map(|a| match a {
        Action::Id(id) => Some(*id),
        _ => None,
    })
}

/// A tag or a message: the whole text, or a regular expression, as ModSecurity has it.
struct Wanted<'a> {
    text: &'a str,
    regex: Option<regex::Regex>,
}

impl<'a> Wanted<'a> {
    fn new(text: &'a str) -> Self {
        Wanted { text, regex: regex::Regex::new(text).ok() }
    }

    fn is(&self, text: &str) -> bool {
        text == self.text || self.regex.as_ref().is_some_and(|r| r.is_match(text))
    }

    fn tags(&self, draft: &Draft) -> bool {
        head_actions(draft).any(|a| matches!(a, Action::Tag(tag) if self.is(tag)))
    }

    fn says(&self, draft: &Draft) -> bool {
        head_actions(draft).any(|a| matches!(a, Action::Msg(m) if m.constant().is_some_and(|t| self.is(t))))
    }
}

fn head_actions(draft: &Draft) -> impl Iterator<Item = &Action> {
    draft.links.first().into_iter().flat_map(|(_, text)| &text.actions)
}

fn update_actions(actions: &mut Vec<Action>, updates: &[Action]) {
    for update in updates {
        // Lists grow (tags, setvars, transformations), single things are replaced.
        let single = !matches!(update, Action::Tag(_) | Action::SetVar(_) | Action::Ctl(_) | Action::Transform(_));
        if single {
            let kind = std::mem::discriminant(update);
            actions.retain(|a| std::mem::discriminant(a) != kind || matches!(a, Action::Id(_) | Action::Phase(_)));
        }
        if !matches!(update, Action::Id(_) | Action::Phase(_)) {
            actions.push(update.clone());
        }
    }
}
