//! Items without names of their own: what leads to them tells which resource each means.

use hosting_resource::{Kind, KindInfo};
use serde_json::Value;

use super::{Comparer, Spot};
use crate::{
    address::{encode, host},
    declare::normal::Actual,
    kinds::{LABELS, label_of, parent_of},
};

impl Comparer<'_> {
    /// Items without names: what leads to them in the files leads to them on the platform. Else one that nothing leads to and that is as
    /// the item says.
    pub(super) async fn find_unnamed(
        &mut self,
        info: &'static KindInfo,
        members: &[usize],
        spot: Option<&Spot>,
        left: &mut [Option<Actual>],
    ) -> anyhow::Result<()> {
        let mut rest = Vec::new();
        for n in members {
            let (leads, ids) = self.led_to(info, *n, spot).await?;
            let mut places: Vec<usize> = Vec::new();
            for (place, actual) in left.iter().enumerate() {
                places.extend(actual.as_ref().filter(|actual| ids.contains(&actual.id)).map(|_| place));
            }
            match places.as_slice() {
                [] => rest.push((*n, leads)),
                [one] => {
                    if let Some(actual) = left[*one].take() {
                        self.take(*n, actual);
                    }
                }
                several => {
                    let candidates: Vec<Actual> =
                        several.iter().filter_map(|place| left[*place].clone()).collect();
                    let candidates: Vec<&Actual> = candidates.iter().collect();
                    self.refuse_ambiguous(*n, "what leads to it in the files leads to several", &candidates);
                }
            }
        }
        for (n, leads) in rest {
            let mut free = Vec::new();
            for (place, actual) in left.iter().enumerate() {
                let Some(actual) = actual else { continue };
                if self.nothing_leads_to(info, &actual.id).await? {
                    free.push(place);
                }
            }
            let same =
                free.iter().copied().find(|place| self.count(info, n, left[*place].as_ref()) == Some(0));
            match same {
                Some(place) => {
                    if let Some(actual) = left[place].take() {
                        self.take(n, actual);
                    }
                }
                None if leads || free.is_empty() => {}
                None => {
                    let candidates: Vec<Actual> =
                        free.iter().filter_map(|place| left[*place].clone()).collect();
                    let candidates: Vec<&Actual> = candidates.iter().collect();
                    let why = "it has no name, nothing in the files leads to it, and there are others that nothing leads to";
                    self.refuse_ambiguous(n, why, &candidates);
                }
            }
        }
        Ok(())
    }

    /// Whether items of the files lead to an item, and the ids of what their resources lead to.
    async fn led_to(
        &mut self,
        info: &'static KindInfo,
        n: usize,
        spot: Option<&Spot>,
    ) -> anyhow::Result<(bool, Vec<String>)> {
        let own = self.items[n].clone();
        let (mut leads, mut ids) = (false, Vec::new());
        for (kind, relation) in leading_to(info) {
            for leading in self.named.leading_to(&own, kind, relation) {
                let one = self.items[leading].clone();
                let there = match (parent_of(kind.info()), &one.lies_in) {
                    (Some(owner), Some(name)) => self.meant(&one, "in", owner, name, None).await?,
                    (Some(_) | None, _) => None,
                };
                let there = there.map(|target| self.id_of(&target));
                if info.parent.map(|of| of.kind) == kind.info().parent.map(|of| of.kind)
                    && there.as_deref() != spot.map(|spot| spot.id.as_str())
                {
                    continue;
                }
                leads = true;
                let label = LABELS.iter().find_map(|field| one.spec.get(*field)?.as_str());
                let (Some(label), Some(field)) = (label, kind.info().parent.map(|of| of.field)) else {
                    continue;
                };
                let place = there.as_deref().map(|id| (field, id));
                let views = self.world.candidates(kind.info(), place, Some(&[label.to_owned()])).await?;
                let same = |view: &&Value| label_of(view).is_some_and(|name| host(name) == host(label));
                let to = views.iter().filter(same).filter(|view| !Actual::is_gone(view));
                ids.extend(to.filter_map(|view| view[relation].as_str().map(str::to_owned)));
            }
        }
        ids.sort();
        ids.dedup();
        Ok((leads, ids))
    }

    async fn nothing_leads_to(&mut self, info: &KindInfo, id: &str) -> anyhow::Result<bool> {
        let lists = Kind::ALL.iter().flat_map(|kind| kind.info().lists);
        for list in lists.filter(|list| list.kind == info.kind) {
            let path = list.path.replace(&format!("{{{}}}", list.param), &encode(id));
            if self.world.list(&path).await?.iter().any(|view| !Actual::is_gone(view)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The kinds whose resources lead to one of this kind, with the field that does.
pub(in crate::declare) fn leading_to(info: &KindInfo) -> Vec<(Kind, &'static str)> {
    let lists = Kind::ALL.iter().flat_map(|kind| kind.info().lists.iter().map(move |list| (*kind, list)));
    lists.filter(|(_, list)| list.kind == info.kind).map(|(kind, list)| (kind, list.relation)).collect()
}
