//! Bindings by what changed from one epoch to the next. What is unpacked is what was packed, to the last field.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::entry::{Binding, PartitionBinding, PartitionStatus};
use crate::state::Partitions;

/// Epochs without a gap.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Packed {
    /// The first one.
    first: u64,
    epochs: Vec<PackedEpoch>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct PackedEpoch {
    /// How far W moved, in milliseconds; from 0 in the first epoch that has one.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    watermark: Option<i64>,
    /// The partitions that changed; if not `all`, also the others that the binding names.
    #[serde(rename = "p", default, skip_serializing_if = "Vec::is_empty")]
    partitions: Vec<PackedPartition>,
    /// The binding names every partition that was named before in this object.
    #[serde(default, skip_serializing_if = "is_default")]
    all: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    last: bool,
    #[serde(rename = "c", default, skip_serializing_if = "is_default")]
    checkpoint: bool,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct PackedPartition {
    #[serde(rename = "n")]
    partition: u32,
    /// All of it, where what changed cannot be said more shortly.
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    whole: Option<PartitionBinding>,
    #[serde(rename = "e", default, skip_serializing_if = "is_default")]
    end: u64,
    #[serde(rename = "l", default, skip_serializing_if = "is_default")]
    lines: u64,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(rename = "w", default, skip_serializing_if = "is_default")]
    watermark: i64,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    status: Option<PartitionStatus>,
    /// Members of the detail with new values.
    #[serde(rename = "x", default, skip_serializing_if = "Map::is_empty")]
    detail: Map<String, Value>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Packs bindings of epochs without a gap.
pub(super) fn pack(bindings: &[&Binding]) -> Packed {
    let (mut known, mut watermark) = (Partitions::new(), None::<i64>);
    let mut packed = Packed { first: bindings.first().map_or(0, |binding| binding.epoch), epochs: Vec::new() };
    for binding in bindings {
        let mut changed = BTreeMap::new();
        for partition in &binding.partitions {
            let number = partition.partition;
            let delta = known.get(&number).map_or_else(|| whole(partition), |before| delta(before, partition));
            changed.insert(number, delta);
            known.insert(number, partition.clone());
        }
        let all = changed.len() == known.len();
        let unchanged =
            |one: &PackedPartition| *one == PackedPartition { partition: one.partition, ..PackedPartition::default() };
        let partitions = changed.into_values().filter(|one| !all || !unchanged(one)).collect();
        // W never goes away again once there is one.
        let moved = binding.watermark.map(|now| now.wrapping_sub(watermark.unwrap_or(0)));
        let moved = if binding.watermark == watermark { None } else { moved };
        watermark = binding.watermark;
        let (last, checkpoint) = (binding.last, binding.checkpoint);
        packed.epochs.push(PackedEpoch { watermark: moved, partitions, all, last, checkpoint });
    }
    packed
}

/// The bindings that were packed.
pub(super) fn unpack(packed: Packed) -> Vec<Binding> {
    let (mut known, mut watermark) = (Partitions::new(), None::<i64>);
    let mut bindings = Vec::with_capacity(packed.epochs.len());
    for (epoch, found) in (packed.first..=u64::MAX).zip(packed.epochs) {
        watermark = found.watermark.map_or(watermark, |moved| Some(watermark.unwrap_or(0).wrapping_add(moved)));
        let mut named = Vec::with_capacity(found.partitions.len());
        for change in found.partitions {
            named.push(change.partition);
            apply(&mut known, change);
        }
        let partitions = match found.all {
            true => known.values().cloned().collect(),
            false => named.iter().filter_map(|number| known.get(number).cloned()).collect(),
        };
        bindings.push(Binding { epoch, watermark, partitions, last: found.last, checkpoint: found.checkpoint });
    }
    bindings
}

fn whole(partition: &PartitionBinding) -> PackedPartition {
    PackedPartition { partition: partition.partition, whole: Some(partition.clone()), ..PackedPartition::default() }
}

fn delta(before: &PartitionBinding, now: &PartitionBinding) -> PackedPartition {
    let moved = (now.end.checked_sub(before.end), now.lines.checked_sub(before.lines));
    let watermark = match (before.watermark, now.watermark) {
        (None, None) => Some(0),
        (Some(before), Some(now)) => Some(now.wrapping_sub(before)),
        _ => None,
    };
    let detail = changed_members(&before.detail, &now.detail);
    match (moved, watermark, detail) {
        ((Some(end), Some(lines)), Some(watermark), Some(detail)) if before.name == now.name => PackedPartition {
            partition: now.partition,
            whole: None,
            end,
            lines,
            digest: (before.digest != now.digest).then(|| now.digest.clone()),
            watermark,
            status: (before.status != now.status).then_some(now.status),
            detail,
        },
        _ => whole(now),
    }
}

/// The members with new values; `None` where more than values changed.
fn changed_members(before: &Value, now: &Value) -> Option<Map<String, Value>> {
    if before == now {
        return Some(Map::new());
    }
    let (before, now) = (before.as_object()?, now.as_object()?);
    if !before.keys().eq(now.keys()) {
        return None;
    }
    let differs = |(name, value): &(&String, &Value)| before.get(*name) != Some(*value);
    Some(now.iter().filter(differs).map(|(name, value)| (name.clone(), value.clone())).collect())
}

fn apply(known: &mut Partitions, change: PackedPartition) {
    if let Some(whole) = change.whole {
        known.insert(change.partition, whole);
        return;
    }
    // A partition is whole where it is named first.
    let Some(partition) = known.get_mut(&change.partition) else { return };
    partition.end = partition.end.wrapping_add(change.end);
    partition.lines = partition.lines.wrapping_add(change.lines);
    if let Some(digest) = change.digest {
        partition.digest = digest;
    }
    partition.watermark = partition.watermark.map(|before| before.wrapping_add(change.watermark));
    partition.status = change.status.unwrap_or(partition.status);
    if let Some(detail) = partition.detail.as_object_mut() {
        detail.extend(change.detail);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn partition() -> impl Strategy<Value = PartitionBinding> {
        let status =
            prop_oneof![Just(PartitionStatus::Active), Just(PartitionStatus::Idle), Just(PartitionStatus::Finished)];
        let detail = prop_oneof![
            Just(json!(null)),
            (0..3_u64, any::<bool>()).prop_map(|(asked, head)| json!({ "asked": asked, "head": head.then_some(5) })),
            (0..3_u64).prop_map(|asked| json!({ "asked": asked, "live": { "silent_for": null } })),
        ];
        let times =
            prop_oneof![Just(None), Just(Some(i64::MAX)), any::<i64>().prop_map(Some), (0..9_i64).prop_map(Some)];
        (0..4_u32, 0..50_u64, 0..5_u64, "[0-9a-c]{0,2}", times, status, detail).prop_map(
            |(partition, end, lines, digest, watermark, status, detail)| PartitionBinding {
                partition,
                name: format!("events/{partition}"),
                end,
                lines,
                digest,
                watermark,
                status,
                detail,
            },
        )
    }

    fn bindings() -> impl Strategy<Value = Vec<Binding>> {
        let content = (prop::collection::vec(partition(), 0..5), 0..3_i64, any::<bool>(), any::<bool>());
        prop::collection::vec(content, 0..12).prop_map(|epochs| {
            let mut watermark = None;
            let binding =
                |(epoch, (partitions, moved, last, checkpoint)): (u64, (Vec<PartitionBinding>, i64, _, _))| {
                    let partitions: Partitions = partitions.into_iter().map(|one| (one.partition, one)).collect();
                    watermark = if moved == 0 { watermark } else { Some(watermark.unwrap_or(-2_i64) + moved) };
                    Binding { epoch, watermark, partitions: partitions.into_values().collect(), last, checkpoint }
                };
            (7..).zip(epochs).map(binding).collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_unpacked_is_what_was_packed(bindings in bindings()) {
            let packed = serde_json::to_vec(&pack(&bindings.iter().collect::<Vec<_>>())).unwrap();
            prop_assert_eq!(unpack(serde_json::from_slice(&packed).unwrap()), bindings);
        }
    }

    #[test]
    fn a_partition_that_moved_takes_less_than_a_hundred_bytes_and_one_that_did_not_none() {
        let detail =
            |asked| json!({ "asked": asked, "head": null, "live": { "silent_for": null }, "source": { "start": 0 } });
        let partition = |number: u32, epoch: u64| PartitionBinding {
            partition: number,
            name: format!("events.page_view/{number}"),
            end: 100_000 + if number == 0 { epoch * 500 } else { 0 },
            lines: if number == 0 { epoch * 500 } else { 0 },
            digest: if number == 0 {
                format!("{:016x}", epoch.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            } else {
                String::new()
            },
            watermark: Some(1_767_225_600_000 + i64::from(number) + 1_000 * i64::try_from(epoch).unwrap()),
            status: PartitionStatus::Active,
            detail: detail(if number == 0 { 100_000 + epoch } else { 0 }),
        };
        let binding = |epoch| Binding {
            epoch,
            watermark: Some(1_767_225_600_000 + 1_000 * i64::try_from(epoch).unwrap()),
            partitions: (0..2).map(|number| PartitionBinding { watermark: None, ..partition(number, epoch) }).collect(),
            last: false,
            checkpoint: false,
        };
        let bindings: Vec<Binding> = (1..=1000).map(binding).collect();
        let bytes = serde_json::to_vec(&pack(&bindings.iter().collect::<Vec<_>>())).unwrap().len();
        assert!(bytes < 1000 * 120, "{bytes} bytes for 1000 epochs");
    }
}
