//! The test cloud does what the other tests rely on: a guest boots, writes, and tells what it wrote; the judge sees
//! everything; the hands clean everything up.

use super::lab::{lab, last_order, ready};

#[test]
fn a_guest_tells_what_it_wrote_and_the_judge_sees_it() {
    let Some(lab) = lab() else { return };
    let project = "services";
    lab.clean(project);
    let before = lab.judge(&[project]);
    let image = lab.guest_image(project);
    let server = lab.hands(&["serve", project, "web-1", "image", &image]);
    let console = lab.console(project, &server, "REPLICATE-SEQ");
    let told = ready(&console);
    assert_eq!((told["boots"], told["broken"]), (1, 0), "{console}");
    assert!(last_order(&console) >= told["seq"], "{console}");

    let world = lab.judge(&[project]);
    assert_eq!(world.of(project, "servers")[0]["metadata"]["backup"], "daily");
    let new: Vec<String> = world.since(&before).into_iter().map(|thing| thing.kind).collect();
    assert_eq!(new, ["images", "ports", "servers"]);
    assert_eq!(lab.sha512(project, &image), world.image(project, &image)["os_hash_value"].as_str().unwrap());
    lab.clean(project);
    assert!(lab.judge(&[project]).since(&before).is_empty());
}
