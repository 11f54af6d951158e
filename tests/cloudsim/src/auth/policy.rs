//! What a principal may do: policy documents with actions and resources. Conditions are not evaluated, so a document
//! that has one is refused rather than half obeyed.

use serde::{Deserialize, Serialize};

/// A document.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Policy {
    #[serde(rename = "Version", default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(rename = "Statement")]
    statements: Vec<Statement>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Statement {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    effect: Effect,
    action: OneOrMany,
    resource: OneOrMany,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Effect {
    Allow,
    Deny,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn any(&self, matches: impl Fn(&str) -> bool) -> bool {
        match self {
            OneOrMany::One(one) => matches(one),
            OneOrMany::Many(many) => many.iter().any(|one| matches(one)),
        }
    }
}

/// Whether `text` fits a pattern of `*` and `?`.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut in_text, mut star) = (0, 0, None);
    while in_text < text.len() {
        if at < pattern.len() && pattern[at] == '*' {
            star = Some((at, in_text));
            at += 1;
        } else if at < pattern.len() && (pattern[at] == '?' || pattern[at] == text[in_text]) {
            at += 1;
            in_text += 1;
        } else if let Some((back, from)) = star {
            at = back + 1;
            in_text = from + 1;
            star = Some((back, from + 1));
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

impl Policy {
    fn says(&self, effect: Effect, action: &str, resource: &str) -> bool {
        self.statements.iter().any(|it| {
            it.effect == effect
                && it.action.any(|pattern| fits(&pattern.to_lowercase(), &action.to_lowercase()))
                && it.resource.any(|pattern| fits(pattern, resource))
        })
    }
}

/// Whether the documents let a principal do `action` on `resource`. `general` is everyone's and can only deny; who has
/// a document of their own needs an Allow in it.
pub(crate) fn allows(own: Option<&Policy>, general: Option<&Policy>, action: &str, resource: &str) -> bool {
    let denied = [own, general].into_iter().flatten().any(|it| it.says(Effect::Deny, action, resource));
    !denied && own.is_none_or(|it| it.says(Effect::Allow, action, resource))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deny_wins_and_an_own_document_must_allow() {
        let parse = |text: &str| serde_json::from_str::<Policy>(text);
        let own =
            parse(r#"{"Statement":[{"Effect":"Allow","Action":["ec2:Describe*","ebs:*"],"Resource":"*"}]}"#).unwrap();
        let deny = parse(
            r#"{"Statement":[{"Effect":"Deny","Action":"ebs:PutSnapshotBlock","Resource":"arn:*:snapshot/snap-1"}]}"#,
        )
        .unwrap();
        assert!(allows(Some(&own), None, "ec2:DescribeImages", "*"));
        assert!(!allows(Some(&own), None, "ec2:DeleteSnapshot", "arn:aws:ec2:r::snapshot/snap-1"));
        assert!(!allows(Some(&own), Some(&deny), "ebs:PutSnapshotBlock", "arn:aws:ec2:r::snapshot/snap-1"));
        assert!(allows(None, Some(&deny), "ebs:PutSnapshotBlock", "arn:aws:ec2:r::snapshot/snap-2"));
        let condition = r#"{"Statement":[{"Effect":"Allow","Action":"*","Resource":"*","Condition":{}}]}"#;
        assert!(parse(condition).is_err(), "a condition is refused");
        assert!(fits("a*c?e", "abbcde") && !fits("a*c", "ab"));
    }
}
